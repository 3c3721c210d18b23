"""A NeMo manifest: a JSON object per line, its audio in `audio_filepath`, its transcription in `text`.

    {"audio_filepath": "long.wav", "offset": 12.5, "duration": 3.1, "text": "what is said", "speaker": "s1"}

Paths are relative to the manifest's folder. The audio of a line is `duration` seconds from `offset` on; many lines may
name one long file. With a `duration` and no `offset`, the whole file is taken if it is that long (to 0.1 s), and its
beginning if it is longer. Further fields are metadata. Tarred data sets are not read.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from data_prep.common.jsonl import Rejected
from data_prep.ingest.table import Row, json_rows, plain, seconds

AUDIO = ("audio_filepath",)


def rows(root: Path) -> Iterator[Row | Rejected]:
    """Yield a row per line of the manifest."""
    return json_rows(root, root)


def convert(values: dict, audio: Sequence[str]) -> dict:
    """Convert a line to a record."""
    record = plain(values, audio)
    if (duration := record["metadata"].pop("duration", None)) is not None:
        record["audios"][0]["duration"] = seconds("duration", duration)
    return record
