"""Corpora, one module each, selected by module name; a dotted name is a module outside this package.

A corpus is a module with `records(root: Path) -> Iterator[dict | Rejected]`. It yields one record per utterance (or
prompt) as docs/architecture.md defines it, and a `Rejected` for each unusable line or file. It raises UserError if
`root` is not the corpus. It reads text and labels only: paths may be absolute or relative to the working directory,
durations are left to `prep ingest`, which opens every audio.

A format of the user's own data (CSV, JSONL, Parquet, ...) is a module with
`rows(root: Path) -> Iterator[Row | Rejected]`, whose rows data_prep/ingest/table.py converts to records. It may define
`AUDIO`, the columns that may name the audio, and `convert`, its own conversion of a row to a record.
"""

import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from caad_ds.utils.errors import UserError
from caad_ds.utils.plugins import plugin_module
from data_prep.common.jsonl import Rejected
from data_prep.ingest import table
from data_prep.ingest.table import Reading


def names() -> list[str]:
    """Return the names of the sources in this package."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get(name: str) -> ModuleType:
    """Return the module of a source; for an unknown name UserError lists the known ones."""
    source = plugin_module("source", name, __name__, names())
    if not hasattr(source, "rows") and not hasattr(source, "records"):
        raise UserError(f"source {name!r}: it has neither records nor rows; the head of {__name__} says what it needs")
    return source


def read(name: str, root: Path, reading: Reading) -> Iterator[dict | Rejected]:
    """Yield the records of a source; UserError for no such source or root, and for columns that it does not read."""
    source = get(name)
    if not root.exists():
        raise UserError(f"{root}: there is no such folder or file; check --root")
    if hasattr(source, "rows"):
        convert, audio = getattr(source, "convert", table.plain), getattr(source, "AUDIO", table.AUDIO_NAMES)
        return table.records(source.rows(root), name, reading, convert, audio)
    if reading.columns or reading.audio_root:
        raise UserError(f"--map and --audio-root: source {name} knows the columns of its corpus; remove them")
    return source.records(root)
