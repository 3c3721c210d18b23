"""Tables of recordings: conversion of rows to records, for all file formats.

A row names its audio, and may name its text, an id, and a part of the audio (`offset` and `duration` in seconds). Every
other column is metadata; empty values are left out.
"""

import datetime
import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

from caad_ds.data.record import RecordFault, as_record
from caad_ds.utils.file_names import file_name
from caad_ds.utils.files import write_atomic
from data_prep.common.jsonl import Rejected, read_rows, require_jsonl

AUDIO_NAMES = ("audio", "path", "file_name", "audio_filepath")  # default names of the audio column
TEXT_NAMES = ("text", "transcription")
DIGEST = 16  # hex digits in the name of a file that audio bytes are written to
LONGEST_SUFFIX = 16


class Fault(Exception):
    """The reason why a row cannot become a record."""


@dataclass(frozen=True)
class Row:
    """A row of the file `listing`, which lies at or below `root`; `number` is its line or row number."""

    listing: Path
    root: Path
    number: int
    values: dict[str, Any]
    unit: str = "line"

    @property
    def where(self) -> str:
        """Return the row's name for the list of rejected records."""
        return f"{_below(self.listing, self.root)} {self.unit} {self.number}"

    @property
    def id(self) -> str:
        """Return the default id of the row."""
        return f"{Path(_below(self.listing, self.root)).with_suffix('').as_posix()}-{self.number:07d}"


@dataclass(frozen=True)
class Reading:
    """The user's options for reading a table.

    Args:
        columns: new name -> column to rename.
        audio_root: folder that relative audio paths start from; None for the folder of the file that names them.
        audio_out: folder that audio embedded in a table is written to.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    audio_root: Path | None = None
    audio_out: Path | None = None

    def renamed(self, values: dict[str, Any]) -> dict[str, Any]:
        """Rename columns as `columns` says; Fault if one does not exist."""
        for name, column in self.columns.items():
            if column not in values:
                raise Fault(f"there is no column {column!r}, which --map {name}={column} names; {_listed(values)}")
        moved = {name: values[column] for name, column in self.columns.items()}
        others = {column: value for column, value in values.items() if column not in self.columns.values()}
        if doubles := sorted(moved.keys() & others.keys()):
            name = doubles[0]
            raise Fault(
                f"--map {name}={self.columns[name]}: there is a column {name!r} as well; map it to another name, such "
                f"as --map other_{name}={name}"
            )
        return others | moved


class Convert(Protocol):
    """Converts a row's values to a record; `audio` are the columns that may name the audio. Raises Fault."""

    def __call__(self, values: dict[str, Any], audio: Sequence[str]) -> dict: ...


def plain(values: dict[str, Any], audio: Sequence[str] = AUDIO_NAMES) -> dict:
    """Convert a row to a record, further columns becoming metadata; no id if the row has none. Fault without audio."""
    entry, others = take_audio(values, audio)
    identity = others.pop("id", None)
    record: dict[str, Any] = {} if identity is None else {"id": identity_of(identity)}
    metadata = {name: value for name, value in others.items() if value is not None}
    return record | {"audios": [entry], "metadata": {name: _json(name, value) for name, value in metadata.items()}}


def take_audio(values: dict[str, Any], names: Sequence[str] = AUDIO_NAMES) -> tuple[dict, dict]:
    """Split a row into the audio entry of a record and the other columns; Fault unless it names exactly one audio."""
    others = dict(values)
    given = [name for name in names if others.get(name) is not None]
    if not given:
        empty = next((f"its column {name!r} is empty" for name in names if name in others), None)
        missing = empty or f"there is no column {names[0]!r}; {_listed(values)}; --map audio=COLUMN names the one"
        raise Fault(f"it names no audio: {missing}")
    if len(given) > 1 and given[0] != names[0]:
        raise Fault(f"columns {given[0]!r} and {given[1]!r} may both name the audio; choose one by --map audio=COLUMN")
    text = first_given(others, TEXT_NAMES)
    entry = _source(others.pop(given[0])) | {"text": "" if text is None else others.pop(text)}
    # In a table of parts, an empty offset means the beginning of the file.
    if "offset" in others and (others["offset"] is not None or others.get("duration") is not None):
        if others["offset"] is None:
            others["offset"] = 0.0
        for name in ("offset", "duration"):
            if (value := others.pop(name, None)) is not None:
                entry[name] = seconds(name, value)
    return entry, others


def first_given(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """Return the first of the names that the row has a value for."""
    return next((name for name in names if row.get(name) is not None), None)


def seconds(name: str, value: object) -> float:
    """Parse an offset or duration in seconds; Fault if it is not a number."""
    try:
        found = float(value) if isinstance(value, int | float | str | Decimal) else math.nan
    except (ValueError, OverflowError):
        found = math.nan
    if isinstance(value, bool) or not 0 <= found < math.inf:
        raise Fault(f"{name!r} must be a number of seconds, not {value!r:.60}")
    return found


def identity_of(value: object) -> object:
    """Convert an integer id to text; other values are returned unchanged."""
    return str(value) if type(value) is int else value  # isinstance would accept True


def records(
    rows: Iterable[Row | Rejected],
    source: str,
    reading: Reading,
    convert: Convert = plain,
    audio: Sequence[str] = AUDIO_NAMES,
) -> Iterator[dict | Rejected]:
    """Yield a record per row, or a `Rejected`."""
    audio = ("audio",) if "audio" in reading.columns else audio
    for row in rows:
        yield row if isinstance(row, Rejected) else _record(row, source, reading, convert, audio)


def json_rows(listing: Path, root: Path) -> Iterator[Row | Rejected]:
    """Yield the objects of a JSONL file; UserError if the file has another format."""
    require_jsonl(listing)
    for number, values in read_rows(listing):
        yield values if isinstance(values, Rejected) else Row(listing, root, number, values)


def _record(row: Row, source: str, reading: Reading, convert: Convert, audio: Sequence[str]) -> dict | Rejected:
    try:
        values = reading.renamed(row.values)
        if (column := reading.columns.get("audio")) is not None and values["audio"] is None:
            raise Fault(f"it names no audio: its column {column!r} is empty")
        record = {"id": row.id, "source": source, **convert(values, audio)}
        held = [entry.pop("bytes", None) for entry in record["audios"]]
        as_record(record)
        folder = reading.audio_root or row.listing.parent
        for number, (entry, data) in enumerate(zip(record["audios"], held, strict=True)):
            named = Path(entry["path"])
            path = folder / named if data is None else _written(data, f"{record['id']}", number, named, reading)
            entry["path"] = path.as_posix()
    except (Fault, RecordFault) as fault:
        return Rejected(row.where, str(fault))
    return record


def _written(data: bytes, identity: str, number: int, named: Path, reading: Reading) -> Path:
    """Write audio embedded in a table to a file, named by record and content, unless it exists; return its path."""
    if reading.audio_out is None:
        raise Fault("its audio stands in the table itself, and there is no folder to write it to")
    suffix = named.suffix if len(named.suffix.encode()) <= LONGEST_SUFFIX else ""
    ending = f"{f'-{number}' * (number > 0)}-{hashlib.sha256(data).hexdigest()[:DIGEST]}{suffix}"
    path = reading.audio_out / file_name(identity, ending)
    if not path.exists():
        write_atomic(path, data)
    return path


def _source(value: object) -> dict:
    """Convert a path, or a cell in Hugging Face's format (`bytes` of a file, or its `path`), to `{bytes, path}`."""
    if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
        return {"path": value.get("path") or "audio", "bytes": value["bytes"]}
    path = value.get("path") if isinstance(value, dict) else value
    if isinstance(path, bytes):
        return {"path": "audio", "bytes": path}
    if not isinstance(path, str) or not path:
        raise Fault(f"its audio must be a path, or bytes in a table, not {value!r:.60}")
    return {"path": path}


def _json(name: str, value: Any) -> Any:
    """Convert a value to a JSON type, dates and decimals to text; Fault for one without an equivalent."""
    if isinstance(value, float) and not math.isfinite(value):
        raise Fault(f"column {name!r} is {value}, which is no number")
    if isinstance(value, bytes):
        raise Fault(f"column {name!r} holds bytes, which metadata cannot")
    if isinstance(value, dict):
        return {key: _json(name, held) for key, held in value.items()}
    if isinstance(value, list):
        return [_json(name, held) for held in value]
    return str(value) if isinstance(value, datetime.date | datetime.time | datetime.timedelta | Decimal) else value


def _listed(values: Mapping[str, Any]) -> str:
    return f"the columns are {', '.join(map(str, values))}"


def _below(listing: Path, root: Path) -> str:
    return listing.relative_to(root).as_posix() if listing != root and listing.is_relative_to(root) else listing.name
