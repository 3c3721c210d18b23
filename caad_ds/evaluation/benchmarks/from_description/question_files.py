"""Read the rows of a described benchmark's files: JSON, JSONL, CSV, TSV, and Parquet or Arrow tables.

Undecodable text skips the rest of its file, in JSONL only its line.
"""

import csv
import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path, PurePath
from typing import NamedTuple

import pyarrow as pa

from caad_ds.evaluation.benchmarks.from_description.description import Description
from caad_ds.evaluation.benchmarks.hf_datasets import FAULTS, TABLES, Cell, schema, table_files, texts
from caad_ds.evaluation.benchmarks.items import Fault
from caad_ds.utils.errors import UserError
from caad_ds.utils.text import TextError, decode_line, each_once, is_text, numbered, read_text

WIDEST_CELL = 1 << 24


class SourceRow(NamedTuple):
    """A row: `PATH:LINE` in the folder, the file, and its values by column (audio bytes as a `Cell`), or a Fault."""

    where: str
    file: Path
    row: dict | Fault


def absent(description: Description, folder: Path) -> list[str]:
    """Return the file names and patterns of a description that match nothing in a folder."""
    return [pattern for pattern in description.files if not _matches(folder, pattern)]


def files_of(description: Description, folder: Path) -> list[Path]:
    """Return the files in a folder that a description names, and the tables of the folders that it names.

    Raises UserError if there are none, or the parts of a data set are incomplete.
    """
    found = []
    for pattern in description.files or ["."]:
        for path in _matches(folder, pattern):
            try:
                found += table_files(path) if path.is_dir() else [path]
            except ValueError as error:
                raise UserError(f"{path}: {error}") from error
    if not found:
        wanted = " or ".join(description.files) or "*.parquet"
        raise UserError(f"{folder}: has no {wanted}, the rows of {description.name}; {description.data}")
    return list(dict.fromkeys(found))


def _matches(folder: Path, pattern: str) -> list[Path]:
    """Return the files and folders that match a pattern; `.`, which Path.glob refuses, is the folder itself."""
    return [folder] if PurePath(pattern) == PurePath() else sorted(folder.glob(pattern))


def read_rows(file: Path, label: str, key: str | None) -> Iterator[SourceRow]:
    """Yield the rows of a file, in order.

    `label` is the file's name in messages, `key` the JSON key of the list of rows.
    """
    read = READERS.get(file.suffix.lower())
    if read is None:
        yield SourceRow(label, file, Fault(f"is no {', '.join(READERS)} file"))
        return
    try:
        for number, row in read(file, key):
            yield SourceRow(f"{label}:{number}", file, row)
    except (TextError, OSError, Fault, RecursionError, *FAULTS) as error:
        yield SourceRow(label, file, Fault(f"cannot be read ({error})"))


def _json(file: Path, key: str | None) -> Iterator[tuple[int, dict | Fault]]:
    data = json.loads(read_text(file), object_pairs_hook=each_once)
    if key is not None:
        if not isinstance(data, dict) or key not in data:
            raise Fault(f"has no key {key!r} that holds its rows")
        data = data[key]
    if not isinstance(data, list):
        raise Fault(f"holds a {type(data).__name__}, not a list of rows")
    for number, row in enumerate(data, 1):
        yield number, _checked(row)


def _jsonl(file: Path, key: str | None) -> Iterator[tuple[int, dict | Fault]]:
    for number, line in numbered(file):
        try:
            text = decode_line(line)
            if text.strip():
                yield number, _checked(json.loads(text, object_pairs_hook=each_once))
        except TextError as error:
            yield number, Fault(str(error))
        except (ValueError, RecursionError) as error:
            yield number, Fault(f"not JSON ({error})")


def _checked(row: object) -> dict | Fault:
    if not isinstance(row, dict):
        return Fault(f"is a {type(row).__name__}, not an object")
    return row if is_text(row) else Fault("holds half of a surrogate pair, which is no character")


def _separated(file: Path, key: str | None) -> Iterator[tuple[int, dict | Fault]]:
    csv.field_size_limit(WIDEST_CELL)
    lines = csv.reader(StringIO(read_text(file)), delimiter="\t" if file.suffix.lower() == ".tsv" else ",", strict=True)
    try:
        header = next(lines, [])
        if len(set(header)) < len(header):
            raise Fault("two columns have one name")
        for cells in filter(None, lines):
            fits = len(cells) == len(header)
            wrong = Fault(f"has {len(cells)} cells, and the header {len(header)}")
            yield lines.line_num, dict(zip(header, cells, strict=True)) if fits else wrong
    except csv.Error as error:
        raise Fault(f"line {lines.line_num}: {error}") from error


def _table(file: Path, key: str | None) -> Iterator[tuple[int, dict | Fault]]:
    """Yield rows with numbers and class labels as text; columns with bytes are audio, which is read on demand."""
    table = schema(file)
    kinds = {name: kind for name, kind in zip(table.names, table.types, strict=True) if not pa.types.is_null(kind)}
    audio = [name for name, kind in kinds.items() if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0]
    plain = [name for name, kind in kinds.items() if name not in audio and not pa.types.is_binary(kind)]
    for number, row in enumerate(texts(file, plain)):
        yield number, {**row, **{name: Cell(name, number) for name in audio}}


READERS = {
    ".json": _json,
    ".jsonl": _jsonl,
    ".csv": _separated,
    ".tsv": _separated,
    **dict.fromkeys(TABLES, _table),
}
