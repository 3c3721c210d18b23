"""VCTK 0.92: 110 speakers of English read about 400 sentences each; accent, age, gender and region are known.

Corpus: University of Edinburgh, datashare.ed.ac.uk/handle/10283/3443 (`VCTK-Corpus-0.92.zip`), licence CC BY 4.0
(Yamagishi, Veaux, MacDonald 2019). `root` is the folder into which the archive was unpacked.

Layout:
    ROOT/speaker-info.txt                                           a line per speaker, after a header
    ROOT/wav48_silence_trimmed/<speaker>/<speaker>_<NNN>_mic1.flac  48 kHz; mic2 is the same speech, another microphone
    ROOT/txt/<speaker>/<speaker>_<NNN>.txt                          the transcription

`speaker-info.txt` has the columns ID, AGE, GENDER, ACCENTS, REGION and COMMENTS, separated by a varying number of
spaces. Accents are one word, except `Australian English` and `NewZealand English`; the region is several words or
none; a comment is in brackets:

    p225  23  F    English    Southern  England
    p280  25  F    Unknown    France (mic2 files unavailable)
    p362  29  F    American

mic1 is used, since p280 has no mic2. p315 has no transcriptions and p362 lacks some recordings: an utterance without
transcription, recording or line for its speaker is rejected. The layout and the lines above were verified in loaders
of the corpus, not on it; whether speaker s5 has a line was not.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from data_prep.common.jsonl import Rejected
from data_prep.ingest.corpus import GENDERS, files, folders, lines, part, transcription, utterance

CORPUS = "the folder that VCTK-Corpus-0.92.zip unpacks to, with wav48_silence_trimmed, txt and speaker-info.txt"
SPEAKER = re.compile(r"(\w+)\s+(\d+)\s+([FM])\s+(\w+)(?:\s+English\b)?\s*([^()]*?)\s*(?:\(.*\))?")


def records(root: Path) -> Iterator[dict | Rejected]:
    """Yield a record per utterance of microphone 1; UserError if `root` is not the corpus."""
    audio, texts = part(root, "wav48_silence_trimmed", CORPUS), part(root, "txt", CORPUS)
    speakers: dict[str, dict[str, str | None]] = {}
    for where, line in lines(info := part(root, "speaker-info.txt", CORPUS)):
        if found := SPEAKER.fullmatch(line):
            speakers[found[1]] = _attributes(found)
        elif not line.startswith("ID"):
            yield Rejected(where, f"it is no line 'ID AGE GENDER ACCENT REGION': {line!r:.60}")
    for speaker in sorted({folder.name for parent in (audio, texts) for folder in folders(parent)}):
        clips = {clip.name.removesuffix("_mic1.flac"): clip for clip in files(audio / speaker, "*_mic1.flac")}
        written = {text.stem: text for text in files(texts / speaker, "*.txt")}
        for name in sorted(clips.keys() | written.keys()):
            text = transcription(written[name]) if name in written else ""
            if name not in clips:
                yield Rejected(name, f"{audio / speaker} has no {name}_mic1.flac")
            elif not text:
                yield Rejected(name, f"{texts / speaker} has no transcription of it")
            elif speaker not in speakers:
                yield Rejected(name, f"{info} has no line for speaker {speaker}")
            else:
                yield utterance("vctk", name, clips[name], text, speaker=speaker, **speakers[speaker])


def _attributes(found: re.Match[str]) -> dict[str, str | None]:
    """Return the attributes, accents spelled as in the other corpora: `NorthernIrish` as `northern irish`."""
    accent = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", found[4]).lower()
    return {
        "gender": GENDERS[found[3].lower()],
        "age": found[2],
        "accent": None if accent == "unknown" else accent,
        "region": " ".join(found[5].split()),
    }
