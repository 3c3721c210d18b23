"""Tables of recordings: how a row becomes a record, whatever file it stood in.

A row names its audio, and may name its text, an id, and a part of the audio (`offset` and `duration` in seconds). Every
other column is metadata; what is empty is left out.
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

AUDIO_NAMES = ("audio", "path", "file_name", "audio_filepath")  # of the column, where a form does not say
TEXT_NAMES = ("text", "transcription")
DIGEST = 16  # hex digits in the name of a file that audio bytes are written to
LONGEST_SUFFIX = 16


class Fault(Exception):
    """Why a row is no record."""


@dataclass(frozen=True)
class Row:
    """A row of the file `listing`, which lies at or below `root`; the `number` is that of its line, or of its row."""

    listing: Path
    root: Path
    number: int
    values: dict[str, Any]
    unit: str = "line"

    @property
    def where(self) -> str:
        """How the row is named where it is rejected."""
        return f"{_below(self.listing, self.root)} {self.unit} {self.number}"

    @property
    def id(self) -> str:
        """The id of a row that has none."""
        return f"{Path(_below(self.listing, self.root)).with_suffix('').as_posix()}-{self.number:07d}"


@dataclass(frozen=True)
class Reading:
    """How a user has the rows of a table read.

    `columns` are the names that columns get (name to column). Relative paths of audio begin at `audio_root`, or in the
    folder of the file that names them. Audio that a table holds itself is written into the folder `audio_out`.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    audio_root: Path | None = None
    audio_out: Path | None = None

    def renamed(self, values: dict[str, Any]) -> dict[str, Any]:
        """The values under the names that `columns` gives them; Fault where there is no such column."""
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
    """Makes a record of a row's values; `audio` are the columns that may name the audio. Raises Fault."""

    def __call__(self, values: dict[str, Any], audio: Sequence[str]) -> dict: ...


def plain(values: dict[str, Any], audio: Sequence[str] = AUDIO_NAMES) -> dict:
    """The record of a row whose further columns are metadata, without an id where the row has none; Fault if it names
    no audio."""
    entry, others = take_audio(values, audio)
    identity = others.pop("id", None)
    record: dict[str, Any] = {} if identity is None else {"id": identity_of(identity)}
    metadata = {name: value for name, value in others.items() if value is not None}
    return record | {"audios": [entry], "metadata": {name: _json(name, value) for name, value in metadata.items()}}


def take_audio(values: dict[str, Any], names: Sequence[str] = AUDIO_NAMES) -> tuple[dict, dict]:
    """The audio that a row names, as a record's entry, and the other columns; Fault where there is none, or two."""
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
    # In a table of parts an empty offset is the beginning of its file.
    if "offset" in others and (others["offset"] is not None or others.get("duration") is not None):
        if others["offset"] is None:
            others["offset"] = 0.0
        for name in ("offset", "duration"):
            if (value := others.pop(name, None)) is not None:
                entry[name] = seconds(name, value)
    return entry, others


def first_given(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The first of the names under which the row has a value."""
    return next((name for name in names if row.get(name) is not None), None)


def seconds(name: str, value: object) -> float:
    """A length or a place in an audio as a number of seconds; Fault where it is none."""
    try:
        found = float(value) if isinstance(value, int | float | str | Decimal) else math.nan
    except (ValueError, OverflowError):
        found = math.nan
    if isinstance(value, bool) or not 0 <= found < math.inf:
        raise Fault(f"{name!r} must be a number of seconds, not {value!r:.60}")
    return found


def identity_of(value: object) -> object:
    """An id as text where it is a whole number."""
    return str(value) if type(value) is int else value  # true is one by isinstance


def records(
    rows: Iterable[Row | Rejected],
    source: str,
    reading: Reading,
    convert: Convert = plain,
    audio: Sequence[str] = AUDIO_NAMES,
) -> Iterator[dict | Rejected]:
    """A record per row, or why it is none."""
    audio = ("audio",) if "audio" in reading.columns else audio
    for row in rows:
        yield row if isinstance(row, Rejected) else _record(row, source, reading, convert, audio)


def json_rows(listing: Path, root: Path) -> Iterator[Row | Rejected]:
    """The objects of a JSONL file; UserError where the file has another form."""
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
    """The file that holds an audio of a table, named by the record and by its content, so that another content is
    another file; written where it is not there yet."""
    if reading.audio_out is None:
        raise Fault("its audio stands in the table itself, and there is no folder to write it to")
    suffix = named.suffix if len(named.suffix.encode()) <= LONGEST_SUFFIX else ""
    ending = f"{f'-{number}' * (number > 0)}-{hashlib.sha256(data).hexdigest()[:DIGEST]}{suffix}"
    path = reading.audio_out / file_name(identity, ending)
    if not path.exists():
        write_atomic(path, data)
    return path


def _source(value: object) -> dict:
    """A path, or a cell of the Hugging Face form: `bytes` of a file, or the `path` of one."""
    if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
        return {"path": value.get("path") or "audio", "bytes": value["bytes"]}
    path = value.get("path") if isinstance(value, dict) else value
    if isinstance(path, bytes):
        return {"path": "audio", "bytes": path}
    if not isinstance(path, str) or not path:
        raise Fault(f"its audio must be a path, or bytes in a table, not {value!r:.60}")
    return {"path": path}


def _json(name: str, value: Any) -> Any:
    """A value as JSON has it: dates and decimals as text; Fault for one that it does not have."""
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
