"""`prep conflict-benchmark`: a benchmark of conflicts between text and held-out audio, in MCR-BENCH's file format.

Format (arXiv 2508.15407): `<task>/<task>.json` beside `<task>/audio/`; here a task is an attribute.
"""

import argparse
import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from random import Random

from caad_ds.data.audio.decode import AudioError
from caad_ds.data.audio.flac import encode
from caad_ds.data.audio.pcm16 import to_pcm16
from caad_ds.data.instructions import Instructions
from caad_ds.data.record import Audio, Record
from caad_ds.utils.errors import UserError
from caad_ds.utils.file_names import LONGEST, stems
from caad_ds.utils.files import disk_errors, write_atomic, write_json
from caad_ds.utils.progress import track
from data_prep.common.audio_entry import is_part, waveform
from data_prep.common.jsonl import Rejected
from data_prep.common.manifest import read_manifest
from data_prep.common.prompt_metadata import PROMPT
from data_prep.common.questions_and_hints import ask, hint
from data_prep.common.rejects import Rejects

LONGEST_SUFFIX = 16  # bytes of a format's name


def register(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--manifest", type=Path, required=True, help="what `prep ingest` wrote")
    parser.add_argument("--instructions", type=Path, required=True, help="YAML with questions, options, statements")
    parser.add_argument("--attributes", nargs="+", metavar="NAME", help="ask only about these (default: all)")
    parser.add_argument("--out", type=Path, required=True, help="folder that gets one folder per attribute")
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> int:
    """Write the benchmark; returns the exit status."""
    write_benchmark(args.manifest, args.out, args.instructions, args.attributes, args.seed)
    return 0


def write_benchmark(
    manifest: Path, out: Path, instruction_file: Path, attributes: Sequence[str] | None = None, seed: int = 0
) -> None:
    """Write a task for each attribute (None: all) that a record has, and print the sizes.

    The list of rejected records is written beside the folder `out`.
    """
    instructions = Instructions.load(instruction_file, attributes)
    for key in instructions.attributes:
        if key in (".", "..") or "/" in key or len(f"{key}.json".encode()) > LONGEST:
            raise UserError(f"{instruction_file}: the attribute {key!r:.60} is to be a folder's name; rename it")
    _no_other_task(out, instructions)
    counts = {}
    with Rejects(out.with_name(f"{out.name}.jsonl")) as rejects:
        records = list(rejects.sift(map(partial(_usable, instructions), read_manifest(manifest))))
        for key in instructions.attributes:
            asked = [record for record in records if key in instructions.known(record)]
            # Shuffled, since corpora are sorted: the first rows (--limit) must represent all.
            Random(f"{seed}/{key}").shuffle(asked)
            count, unheard = write_task(out / key, asked, instructions, key, seed)
            for rejected in unheard:
                rejects.add(rejected)
            if unheard:  # their other questions are about the same audio
                gone = {rejected.id for rejected in unheard}
                records = [record for record in records if record["id"] not in gone]
            if count:
                counts[key] = count
    if not counts:
        raise UserError(f"{manifest}: no usable record has an attribute of {instruction_file}{rejects.why}")
    rejects.report()
    print(f"{out}: " + ", ".join(f"{key} {counts.get(key, 0)}" for key in instructions.attributes) + rejects.summary)


def _no_other_task(out: Path, instructions: Instructions) -> None:
    """Raise UserError if the folder holds a task of an earlier call, which an evaluation would include."""
    written = sorted(file.parent.name for file in out.glob("*/*.json") if file.stem == file.parent.name)
    if other := [name for name in written if name not in instructions.attributes]:
        raise UserError(
            f"{out}: it holds {', '.join(other)} from before, which is not asked about now; remove that folder, or "
            "give another --out"
        )


def write_task(
    folder: Path, records: list[Record], instructions: Instructions, key: str, seed: int
) -> tuple[int, list[Rejected]]:
    """Write `<folder>/<key>.json`, a list of rows, and the audio that they name.

    A row holds `audio` (relative to the folder), `text` (the transcription), `neutral` (the question), `gt` (the right
    option), the descriptions `faithful`, `adversarial` and `irrelevant`, and the record's `metadata`, which `prep
    verify` checks for speakers of the training data. Audio is hard-linked if the file system can, otherwise copied.
    Returns the number of rows, and the records whose audio cannot be used.
    """
    rows, unheard = [], []
    names = stems([record["id"] for record in records], LONGEST_SUFFIX)
    for record in track(records, f"benchmark {key}", len(records)):
        audio = record["audios"][0]
        rng = Random(f"{seed}/{record['id']}/{key}")
        asked = ask(instructions, record, key, rng)
        hints = {name: hint(instructions, asked, name, rng) for name in ("faithful", "adversarial", "irrelevant")}
        try:
            name = _place(audio, folder / "audio", names[record["id"]])
        except AudioError as error:
            unheard.append(Rejected(record["id"], str(error)))
            continue
        text, metadata = audio.get("text", ""), {**(record.get("metadata") or {})}
        metadata.pop(PROMPT, None)  # it holds another question and its answer
        rows.append(
            {"audio": name, "gt": asked.label, **hints, "neutral": asked.question, "text": text, "metadata": metadata}
        )
    file = folder / f"{folder.name}.json"
    if rows:
        write_json(file, rows)
    else:
        file.unlink(missing_ok=True)  # of an earlier call, whose records had the attribute
    return len(rows), unheard


def _usable(instructions: Instructions, record: Record | Rejected) -> Record | Rejected:
    """Return the record, or a `Rejected` if no question can be asked about it."""
    if isinstance(record, Rejected):
        return record
    try:
        if instructions.known(record) and (count := len(record["audios"])) != 1:
            return Rejected(record["id"], f"it has {count} audios; MCR-BENCH asks about one")
    except UserError as error:
        return Rejected(record["id"], str(error))
    return record


def _place(entry: Audio, folder: Path, name: str) -> str:
    audio = Path(entry["path"])
    if audio.exists() and not audio.is_file():
        raise AudioError(f"its audio {audio} is no file")
    suffix = ".flac" if is_part(entry) else audio.suffix
    target = folder / f"{name}{suffix if len(suffix.encode()) <= LONGEST_SUFFIX else ''}"
    if is_part(entry):
        write_atomic(target, encode(to_pcm16(waveform(entry))))
        return f"{folder.name}/{target.name}"
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            os.link(audio, target)
        except FileNotFoundError as error:
            raise AudioError(f"its audio {audio} does not exist; ingest the corpus again") from error
        except OSError:  # another file system, or one without hard links
            shutil.copyfile(audio, target)
    return f"{folder.name}/{target.name}"
