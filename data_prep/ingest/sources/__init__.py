"""Corpora, one module each, found by the module's name; a dotted name is that of a module elsewhere.

A corpus is a module with `records(root: Path) -> Iterator[dict | Rejected]`, which yields one record per utterance (or
per prompt) as docs/architecture.md defines it, and a `Rejected` for what it finds unusable: one bad line or file does
not stop the others. It raises UserError where `root` is not the corpus. It reads text and labels only: paths may be
absolute or relative to the working directory, durations are left to `prep ingest`, which opens every audio.

A form that own data come in (CSV, JSONL, Parquet, ...) is a module with `rows(root: Path) -> Iterator[Row | Rejected]`,
whose rows data_prep/ingest/table.py makes records of. It may have `AUDIO`, the columns that may name the audio, and
`convert`, which makes a record of a row in its own way.
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
    """The sources there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get(name: str) -> ModuleType:
    """The module of a source; UserError lists the names where there is no such source."""
    source = plugin_module("source", name, __name__, names())
    if not hasattr(source, "rows") and not hasattr(source, "records"):
        raise UserError(f"source {name!r}: it has neither records nor rows; the head of {__name__} says what it needs")
    return source


def read(name: str, root: Path, reading: Reading) -> Iterator[dict | Rejected]:
    """What a source yields; UserError for no such source or root, and for columns that it does not read."""
    source = get(name)
    if not root.exists():
        raise UserError(f"{root}: there is no such folder or file; check --root")
    if hasattr(source, "rows"):
        convert, audio = getattr(source, "convert", table.plain), getattr(source, "AUDIO", table.AUDIO_NAMES)
        return table.records(source.rows(root), name, reading, convert, audio)
    if reading.columns or reading.audio_root:
        raise UserError(f"--map and --audio-root: source {name} knows the columns of its corpus; remove them")
    return source.records(root)
