"""DailyTalk: 2,541 dialogues of DailyDialog, read by one woman and one man, with topic, emotion and dialogue act.

Corpus: github.com/keonlee9420/DailyTalk (the archive is on the Google Drive that its README names), licence
CC BY-SA 4.0 (Lee, Park, Kim; ICASSP 2023). `root` is the folder `dailytalk` of the archive.

Layout: `ROOT/data/<dialogue>/<utterance>_<speaker>_d<dialogue>.wav`, with a `.txt` beside each that is not read, and
`ROOT/metadata.json`, which names every utterance:

    {"0": {"0": {"utterance_idx": 0, "dialog_idx": 0, "index": 0, "turn": 0, "speaker": 0, "text": "...",
                 "topic": "...", "emotion": "no emotion", "act": "question"}, "1": {...}}, "1": {...}}

Speaker 0 is the man and 1 the woman. The emotions were annotated on the text of DailyDialog, not on the recordings;
`no emotion` becomes `neutral`. An entry that lacks one of speaker, text, emotion or act, or has an unknown value, is
rejected. `metadata.json` (24,000 utterances) is held in memory. The layout was verified in the authors' code and in
loaders of the corpus, not on it; fields other than speaker, text, topic, emotion, act, turn, index and utterance_idx
were not verified.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from caad_ds.utils.errors import UserError
from caad_ds.utils.text import TextError, read_text
from data_prep.common.jsonl import Rejected
from data_prep.ingest.corpus import part, utterance

CORPUS = "the folder dailytalk of the archive, with data and metadata.json"
SPEAKERS = {0: "male", 1: "female"}
EMOTIONS = {
    "no emotion": "neutral",
    "happiness": "happy",
    "sadness": "sad",
    "anger": "angry",
    "fear": "fearful",
    "surprise": "surprised",
    "disgust": "disgusted",
}


def records(root: Path) -> Iterator[dict | Rejected]:
    """Yield a record per utterance of the metadata; UserError if `root` is not the corpus."""
    listing, data = part(root, "metadata.json", CORPUS), part(root, "data", CORPUS)
    for dialogue, utterances in _load(listing).items():
        for number, entry in utterances.items() if isinstance(utterances, dict) else [("?", utterances)]:
            if fault := _fault(entry):
                yield Rejected(f"{listing} dialogue {dialogue} utterance {number}", fault)
            else:
                yield _record(data, dialogue, number, entry)


def _load(listing: Path) -> dict:
    try:
        content = json.loads(read_text(listing))
    except TextError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"{listing}: it is no JSON ({error}); unpack the archive again") from error
    if not isinstance(content, dict):
        raise UserError(f"{listing}: it is no object of dialogues; unpack the archive again")
    return content


def _fault(entry: object) -> str | None:
    if not isinstance(entry, dict):
        return f"it is no object: {entry!r:.60}"
    for name in ("text", "act"):
        if not isinstance(entry.get(name), str):
            return f"it has no {name!r}: {entry!r:.60}"
    for name, known in (("speaker", SPEAKERS), ("emotion", EMOTIONS)):
        if entry.get(name) not in list(known):
            return f"its {name!r} is none of {', '.join(map(str, known))}: {entry.get(name)!r}"
    return None


def _record(data: Path, dialogue: str, number: str, entry: dict) -> dict | Rejected:
    name = f"{number}_{entry['speaker']}_d{dialogue}"
    return utterance(
        "dailytalk",
        name,
        data / dialogue / f"{name}.wav",
        entry["text"],
        speaker=f"dailytalk-{entry['speaker']}",
        gender=SPEAKERS[entry["speaker"]],
        emotion=EMOTIONS[entry["emotion"]],
        act=entry["act"],
        topic=entry.get("topic"),
        dialogue=dialogue,
        turn=number,
    )
