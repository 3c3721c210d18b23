"""Data sets of the Hugging Face form, as far as evaluation needs them: Parquet, or Arrow as `save_to_disk` writes it.

Texts are read once; the bytes of an audio only when it is heard, a row group at a time.
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

KEPT = 4  # files, and row groups of a column, that stay open: the audios of one item and of its successor
BATCH = 256  # rows
FAULTS = (pa.ArrowException, OSError, ValueError)  # what reading a broken file raises
TABLES = (".parquet", ".arrow")
# A file of several, with a hash of its content where the hub's older ones have it.
PART = re.compile(r"(?P<name>.*?)-?(?P<number>\d{5})-of-(?P<count>\d{5})(?:-[0-9a-f]{8,})?")
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}  # as file and folder names call them, after the `datasets` library


class Cell(NamedTuple):
    """Where a value stands in a file; `place` is its index in the cell's list, None where the cell is the value."""

    column: str
    row: int
    place: int | None = None


def table_files(folder: Path) -> list[Path]:
    """The files of one data set, in order, of the split to evaluate."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in TABLES and path.is_file())
    found = of_one_split([path for path in files if _belongs(path)], folder)
    for parent in {path.parent for path in found}:
        _require_whole([path for path in found if path.parent == parent])
    return found


def _require_whole(files: list[Path]) -> None:
    """ValueError where numbered files of one folder, such as `test-00000-of-00002.parquet`, are not those of one data
    set: one is missing, or there are two of a number."""
    parts: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for path in files:
        if part := PART.fullmatch(path.stem):
            parts.setdefault((part["name"], path.suffix), []).append((int(part["number"]), int(part["count"])))
    for (name, suffix), there in parts.items():
        count = there[0][1]
        if sorted(there) != [(number, count) for number in range(count)]:
            numbers = ", ".join(f"{number:05}-of-{of:05}" for number, of in sorted(there))
            raise ValueError(
                f"the {name or 'numbered'} files ({suffix}) are {numbers}, not each of one data set once; was a "
                "download interrupted, or are there two versions?"
            )


def _names(state: Path) -> set[str]:
    """The files that a folder's `state.json` names; ValueError where one is missing."""
    try:
        names = {file["filename"] for file in json.loads(read_text(state))["_data_files"]}
    except (LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"{state} names no files of the data set") from error
    if missing := sorted(name for name in names if not (state.parent / name).is_file()):
        raise ValueError(f"{state.parent / missing[0]} is missing, which {state.name} names; copy the whole folder")
    return names


def of_one_split(files: list[Path], folder: Path) -> list[Path]:
    """Of files of several splits those of `test`; ValueError where none is called that."""
    splits: dict[str | None, list[Path]] = {}
    for path in files:
        splits.setdefault(_split(path, folder), []).append(path)
    if len(splits) > 1 and "test" not in splits:
        names = ", ".join(sorted(name or "one without a name" for name in splits))
        raise ValueError(f"several splits ({names}), none of them test; leave there the one to evaluate")
    return splits["test"] if "test" in splits else [path for paths in splits.values() for path in paths]


def _split(path: Path, folder: Path) -> str | None:
    """The split that a file is of by its name or by that of the nearest folder, None where they name none."""
    parts = path.relative_to(folder).parts
    if (folder / "dataset_dict.json").is_file() and len(parts) > 1:  # `save_to_disk` of several splits
        return parts[0]
    words = (re.match("[a-z]*", part.lower()) for part in reversed(parts))
    return next((SPLITS[word.group()] for word in words if word and word.group() in SPLITS), None)


def _belongs(path: Path) -> bool:
    """Whether an Arrow file is one that the folder's `state.json` names, and no cache that was left beside it."""
    state = path.parent / "state.json"
    if path.suffix != ".arrow" or not state.is_file():
        return True
    return path.name in _names(state)


def schema(path: Path) -> pa.Schema:
    """Names and types of a file's columns."""
    return _parquet(path).schema_arrow if path.suffix == ".parquet" else _arrow(path).schema


def texts(path: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Each row's values of these columns; numbers and booleans as text, class labels by their names."""
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
    """What the numbers of a column stand for where the `datasets` library calls it a ClassLabel; else none."""
    about = (table.metadata or {}).get(b"huggingface")
    features = (json.loads(about).get("info") or {}).get("features") or {} if about else {}
    feature = features.get(column)
    return feature.get("names") or [] if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else []


def lengths(path: Path, column: str) -> Iterator[int]:
    """How many values each row's list in this column has; the values themselves are passed over."""
    for batch in _batches(path, [column]):
        yield from (length or 0 for length in pc.list_value_length(batch.column(0)).to_pylist())


def value(path: Path, cell: Cell) -> Any:
    """What a cell holds."""
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
    """The first row of each row group, and the number of rows."""
    about = _parquet(path).metadata
    return [0, *accumulate(about.row_group(k).num_rows for k in range(about.num_row_groups))]


@lru_cache(KEPT)
def _group(path: Path, group: int, column: str) -> pa.ChunkedArray:
    return _parquet(path).read_row_group(group, columns=[column]).column(column)


@lru_cache(KEPT)
def _arrow(path: Path) -> pa.Table:
    """The table, mapped and not read; the stream format, which `datasets` writes, or the file format."""
    try:
        return pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
    except pa.ArrowInvalid:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
