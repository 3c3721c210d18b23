"""PromptSpeech, the corpus of PromptTTS, in its real version: LibriTTS with pitch, speaking rate and energy as words.

Corpus: speechresearch.github.io/prompttts (`Real_training.zip`, `Real_test.zip`: 26,588 and 1,305 clips; Guo et al.,
ICASSP 2023), which states no licence, and LibriTTS, openslr.org/60, licence CC BY 4.0. The synthesized version, which
has emotions too, is published as prompts without speech; speech that was synthesized for it is read by `jsonl`. `root`
is a folder with both:

    unzip -j Real_training.zip -d ROOT && unzip -j Real_test.zip -d ROOT
    for archive in train-*.tar.gz dev-*.tar.gz test-*.tar.gz; do tar -xzf $archive -C ROOT; done

Layout:
    ROOT/Real_training.csv, ROOT/Real_test.csv                          a header, then a line per clip
    ROOT/LibriTTS/<subset>/<speaker>/<chapter>/<item_name>.wav          24 kHz
    ROOT/LibriTTS/<subset>/<speaker>/<chapter>/<item_name>.normalized.txt   the transcription

Columns: item_name (`<speaker>_<chapter>_<paragraph>_<sentence>`), spk_id, gender (M, F), pitch (low, normal, high),
speaking_speed (slow, normal, fast), energy (low, normal, high), style_prompt. Others are not read. A line with another
value is rejected, and so is one whose clip or transcription is missing. The columns of the training file were verified
in code that reads it, not on it; the test file is assumed to have the same.
"""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from caad_ds.utils.errors import UserError
from data_prep.common.jsonl import Rejected
from data_prep.ingest.corpus import GENDERS, files, folders, lines, part, transcription, utterance

CORPUS = "a folder with Real_training.csv and LibriTTS"
ITEM = re.compile(r"(\d+)_(\d+)_\d+_\d+")
LEVELS = ("low", "normal", "high")
VALUES = {
    "gender": ("M", "F"),
    "pitch": LEVELS,
    "speaking_speed": ("slow", "normal", "fast"),
    "energy": LEVELS,
}


def records(root: Path) -> Iterator[dict | Rejected]:
    """Yield a record per line of the style prompts; UserError if `root` lacks these or LibriTTS."""
    subsets = folders(part(root, "LibriTTS", CORPUS))
    listings = files(root, "Real_*.csv")
    if not listings:
        raise UserError(f"{root / 'Real_training.csv'} does not exist: --root names {CORPUS}")
    for listing in listings:
        table = lines(listing)
        header = _fields(next(table, ("", ""))[1])
        if missing := {"item_name", *VALUES} - set(header):
            raise UserError(f"{listing}: it has no column {', '.join(sorted(missing))}; download it again")
        for where, line in table:
            yield _record(dict(zip(header, _fields(line))), where, subsets)


def _fields(line: str) -> list[str]:
    """Split a line into columns; [] if its quotes are broken (lines are parsed one by one)."""
    try:
        return next(csv.reader([line], strict=True), [])
    except csv.Error:
        return []


def _record(row: dict[str, str], where: str, subsets: list[Path]) -> dict | Rejected:
    for name, known in VALUES.items():
        if row.get(name) not in known:
            return Rejected(where, f"its {name} is none of {', '.join(known)}: {row.get(name)!r:.60}")
    if not (found := ITEM.fullmatch(name := row["item_name"])):
        return Rejected(where, f"its item_name is none of LibriTTS: {name!r:.60}")
    inside = Path(found[1], found[2], f"{name}.wav")
    clip = next((subset / inside for subset in subsets if (subset / inside).is_file()), None)
    if clip is None:
        return Rejected(name, f"{where}: no part of LibriTTS has {inside}")
    text = transcription(listed := clip.with_suffix(".normalized.txt"))
    if not text:
        return Rejected(name, f"{listed} holds no transcription of it")
    return utterance(
        "prompttts",
        name,
        clip,
        text,
        speaker=found[1],
        gender=GENDERS[row["gender"].lower()],
        pitch=row["pitch"],
        speaking_rate=row["speaking_speed"],
        energy=row["energy"],
        style_prompt=row.get("style_prompt"),
    )
