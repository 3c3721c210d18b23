"""A folder of audio with metadata files: the `audiofolder` format of the `datasets` library.

    ROOT/metadata.csv, or .jsonl or .parquet    a row per file: file_name (relative to this folder), and other columns
    ROOT/train/metadata.csv, ...                the same for further folders, at any depth

A row without an id gets one from the metadata's path and its line. Files that no metadata names are ignored.
"""

from collections.abc import Iterator
from pathlib import Path

from caad_ds.utils.errors import UserError
from data_prep.common import file_formats
from data_prep.common.jsonl import Rejected
from data_prep.ingest.sources import csv, parquet
from data_prep.ingest.table import Row, json_rows

AUDIO = ("file_name",)
READERS = {".csv": csv.read, ".jsonl": json_rows, ".parquet": parquet.read}


def rows(root: Path) -> Iterator[Row | Rejected]:
    """Yield the rows of every metadata file, by path; UserError if `root` has none."""
    found = sorted(path for path in root.rglob("metadata.*") if path.suffix in READERS and path.is_file())
    if not found:
        hint = file_formats.in_folder(root) if root.is_dir() else "it is a file; name its folder"
        raise UserError(f"{root}: no metadata.csv, .jsonl or .parquet is in it: {hint}")
    for listing in found:
        yield from READERS[listing.suffix](listing, root)
