"""Parquet files of a data set of the Hugging Face form: audio in a column of structs `{bytes, path}`.

`root` is a file, or a folder whose `.parquet` files are read by path. Audio that stands in the table is written beside
the manifest, into the folder `<manifest>.audio`: every later step opens a file, and none has to decode a row group of
audio for one clip. A cell with a path alone, or a column of paths, names files, relative to the table's folder.

Class labels become their names. A missing number is left out. A number of 16 or 32 bits is the shortest that it
stands for: 0.4, which as 64 bits would be 0.4000000059604645 and found by no rule that names 0.4.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from caad_ds.utils.errors import UserError
from data_prep.common.jsonl import Rejected
from data_prep.ingest.table import Row

BATCH = 16  # rows in memory
SHORT: dict[str, type] = {"float": np.float32, "halffloat": np.float16}  # by Arrow's names


def rows(root: Path) -> Iterator[Row | Rejected]:
    """A row per row of every file; UserError where there is none."""
    found = [root] if root.is_file() else sorted(path for path in root.rglob("*.parquet") if path.is_file())
    found = [path for path in found if path == root or not _hidden(path, root)]
    if not found:
        raise UserError(f"{root}: no .parquet file is in it; --root names such a file, or a folder of them")
    for listing in found:
        yield from read(listing, root)


def read(listing: Path, root: Path) -> Iterator[Row | Rejected]:
    """The rows of a file at or below `root`, a few in memory at a time; from where it cannot be read it is rejected."""
    # Imported here, for help and wrong paths are answered before.
    import pyarrow as pa
    import pyarrow.parquet as pq

    from caad_ds.evaluation.benchmarks.hf_datasets import class_names

    number = 0
    try:
        with pq.ParquetFile(listing, pre_buffer=False, buffer_size=1 << 20) as file:
            schema = file.schema_arrow
            labels = {name: class_names(schema, name) for name in schema.names}
            short = {name: SHORT[str(kind)] for name, kind in zip(schema.names, schema.types) if str(kind) in SHORT}
            for batch in file.iter_batches(BATCH):
                for values in batch.to_pylist():
                    yield Row(listing, root, number, _named(values, labels, short), "row")
                    number += 1
    except (pa.ArrowException, OSError, ValueError) as error:
        where = Row(listing, root, number, {}, "row").where
        yield Rejected(where, f"the file cannot be read from this row on ({' '.join(str(error).split())[:200]})")


def _named(values: dict[str, Any], labels: dict[str, list[str]], short: dict[str, type]) -> dict[str, Any]:
    """The values with class labels by their names, and None for what is not a number (as pandas writes a gap)."""
    return {name: _label(value, labels[name], short.get(name)) for name, value in values.items()}


def _label(value: Any, names: list[str], short: type | None) -> Any:
    if names and isinstance(value, int):
        return names[value] if 0 <= value < len(names) else None  # -1 stands for no label
    if isinstance(value, float) and math.isnan(value):
        return None
    return float(str(short(value))) if short and value is not None else value


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)
