"""Read data sets in the Hugging Face format: Parquet, or Arrow as written by `save_to_disk`.

Texts are read once; audio bytes on demand, a row group at a time.
"""

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from caad_ds.utils.text import read_text

KEPT = 4  # cached files, and row groups of a column: enough for the audios of two items
BATCH = 256  # rows
FAULTS = (pa.ArrowException, OSError, ValueError)  # raised for broken files
TABLES = (".parquet", ".arrow")
# One of several numbered files; older ones on the hub end in a content hash.
PART = re.compile(r"(?P<name>.*?)-?(?P<number>\d{5})-of-(?P<count>\d{5})(?:-[0-9a-f]{8,})?")
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}  # names of splits in file and folder names, as in the `datasets` library


class Cell(NamedTuple):
    """Position of a value in a file; `place` is its index if the cell holds a list, else None."""

    column: str
    row: int
    place: int | None = None


def table_files(folder: Path) -> list[Path]:
    """Return the files of a data set's split to evaluate, in order."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in TABLES and path.is_file())
    found = of_one_split([path for path in files if _belongs(path)], folder)
    for parent in {path.parent for path in found}:
        _require_whole([path for path in found if path.parent == parent])
    return found


def _require_whole(files: list[Path]) -> None:
    """Raise ValueError if numbered files such as `test-00000-of-00002.parquet` are incomplete or have duplicates."""
    parts: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for path in files:
        if part := PART.fullmatch(path.stem):
            parts.setdefault((part["name"], path.suffix), []).append((int(part["number"]), int(part["count"])))
    for (name, suffix), present in parts.items():
        count = present[0][1]
        if sorted(present) != [(number, count) for number in range(count)]:
            numbers = ", ".join(f"{number:05}-of-{of:05}" for number, of in sorted(present))
            raise ValueError(
                f"the {name or 'numbered'} files ({suffix}) are {numbers}, not each of one data set once; was a "
                "download interrupted, or are there two versions?"
            )


def _names(state: Path) -> set[str]:
    """Return the files that a folder's `state.json` names; ValueError if one is missing."""
    try:
        names = {file["filename"] for file in json.loads(read_text(state))["_data_files"]}
    except (LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"{state} names no files of the data set") from error
    if missing := sorted(name for name in names if not (state.parent / name).is_file()):
        raise ValueError(f"{state.parent / missing[0]} is missing, which {state.name} names; copy the whole folder")
    return names


def of_one_split(files: list[Path], folder: Path) -> list[Path]:
    """Return the files of the split `test`, or all if there is one split; ValueError if none of several is `test`."""
    splits: dict[str | None, list[Path]] = {}
    for path in files:
        splits.setdefault(_split(path, folder), []).append(path)
    if len(splits) > 1 and "test" not in splits:
        names = ", ".join(sorted(name or "one without a name" for name in splits))
        raise ValueError(f"several splits ({names}), none of them test; leave there the one to evaluate")
    return splits["test"] if "test" in splits else [path for paths in splits.values() for path in paths]


def _split(path: Path, folder: Path) -> str | None:
    """Return the split named by a file, else by the nearest folder; None if they name none."""
    parts = path.relative_to(folder).parts
    if (folder / "dataset_dict.json").is_file() and len(parts) > 1:  # `save_to_disk` of several splits
        return parts[0]
    words = (re.match("[a-z]*", part.lower()) for part in reversed(parts))
    return next((SPLITS[word.group()] for word in words if word and word.group() in SPLITS), None)


def _belongs(path: Path) -> bool:
    """Return whether a file belongs to the data set: an Arrow file not in `state.json` is a leftover cache."""
    state = path.parent / "state.json"
    if path.suffix != ".arrow" or not state.is_file():
        return True
    return path.name in _names(state)


def schema(path: Path) -> pa.Schema:
    """Return names and types of a file's columns."""
    return _parquet(path).schema_arrow if path.suffix == ".parquet" else _arrow(path).schema


def texts(path: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Yield each row's values of these columns; numbers and booleans as text, class labels by name."""
    names = {column: class_names(schema(path), column) for column in columns}
    for batch in _batches(path, columns):
        values = {column: _texts(batch.column(column), names[column]) for column in columns}
        yield from pa.RecordBatch.from_pydict(values).to_pylist()


def _texts(column: pa.Array, names: list[str]) -> pa.Array:
    kind = column.type
    if names and pa.types.is_integer(kind):
        return pa.array([names[k] if k is not None and 0 <= k < len(names) else None for k in column.to_pylist()])
    if pa.types.is_floating(kind):
        column = pc.if_else(pc.is_finite(column), column, None)
    numbers = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    return column.cast(pa.string()) if any(is_number(kind) for is_number in numbers) else column


def class_names(table: pa.Schema, column: str) -> list[str]:
    """Return the class names of a column of type ClassLabel (`datasets` library); else none."""
    metadata = (table.metadata or {}).get(b"huggingface")
    features = (json.loads(metadata).get("info") or {}).get("features") or {} if metadata else {}
    feature = features.get(column)
    return feature.get("names") or [] if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else []


def lengths(path: Path, column: str) -> Iterator[int]:
    """Yield the length of each row's list in this column, without converting the values."""
    for batch in _batches(path, [column]):
        yield from (length or 0 for length in pc.list_value_length(batch.column(0)).to_pylist())


def value(path: Path, cell: Cell) -> Any:
    """Return the value of a cell."""
    if path.suffix == ".parquet":
        starts = _starts(path)
        group = next(k for k in range(len(starts) - 1) if cell.row < starts[k + 1])
        held = _group(path, group, cell.column)[cell.row - starts[group]].as_py()
    else:
        held = _arrow(path).column(cell.column)[cell.row].as_py()
    return held if cell.place is None else held[cell.place]


def _batches(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    if path.suffix == ".parquet":
        return _parquet(path).iter_batches(BATCH, columns=columns)
    return iter(_arrow(path).select(columns).to_batches(BATCH))


@lru_cache(KEPT)
def _parquet(path: Path) -> pq.ParquetFile:
    return pq.ParquetFile(path)


def _starts(path: Path) -> list[int]:
    """Return the first row of each row group, and the number of rows."""
    metadata = _parquet(path).metadata
    return [0, *accumulate(metadata.row_group(k).num_rows for k in range(metadata.num_row_groups))]


@lru_cache(KEPT)
def _group(path: Path, group: int, column: str) -> pa.ChunkedArray:
    return _parquet(path).read_row_group(group, columns=[column]).column(column)


@lru_cache(KEPT)
def _arrow(path: Path) -> pa.Table:
    """Return the memory-mapped table, in the stream format (written by `datasets`) or the file format."""
    try:
        return pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
    except pa.ArrowInvalid:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
