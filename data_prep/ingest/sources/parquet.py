"""Parquet files in the format of Hugging Face data sets: audio in a column of structs `{bytes, path}`.

`root` is a file, or a folder whose `.parquet` files are read by path. Audio embedded in the table is written beside the
manifest, into the folder `<manifest>.audio`: later steps open one file instead of decoding a row group per clip. A cell
with a path alone, or a column of paths, names files, relative to the table's folder.

Class labels become their names. A missing number is left out. A number of 16 or 32 bits becomes its shortest decimal:
0.4 instead of 0.4000000059604645, which a rule for 0.4 would not match.
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
    """Yield the rows of every file; UserError if there is none."""
    found = [root] if root.is_file() else sorted(path for path in root.rglob("*.parquet") if path.is_file())
    found = [path for path in found if path == root or not _hidden(path, root)]
    if not found:
        raise UserError(f"{root}: no .parquet file is in it; --root names such a file, or a folder of them")
    for listing in found:
        yield from read(listing, root)


def read(listing: Path, root: Path) -> Iterator[Row | Rejected]:
    """Yield the rows of a file at or below `root`, read in small batches; `Rejected` at the first unreadable row."""
    # Imported here, so that --help and wrong paths are answered without it.
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
    """Replace class labels by their names, and NaN (a gap written by pandas) by None."""
    return {name: _label(value, labels[name], short.get(name)) for name, value in values.items()}


def _label(value: Any, names: list[str], short: type | None) -> Any:
    if names and isinstance(value, int):
        return names[value] if 0 <= value < len(names) else None  # -1 stands for no label
    if isinstance(value, float) and math.isnan(value):
        return None
    return float(str(short(value))) if short and value is not None else value


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)
