"""Corpora, one module each, found by the module's name.

A source is a module with `records(root: Path) -> Iterator[dict | Rejected]`, which yields one record per utterance (or
per prompt) as docs/architecture.md defines it, and a `Rejected` for what it finds unusable: one bad line or file does
not stop the others. It raises UserError where `root` is not the corpus. It reads text and labels only: paths may be
absolute or relative to the working directory, durations are left to `prep ingest`, which opens every audio.
"""

import pkgutil
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

from caad_ds.errors import UserError
from data_prep.jsonl import Rejected


def names() -> list[str]:
    """The sources there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get(name: str) -> Callable[[Path], Iterator[dict | Rejected]]:
    """The `records` function of a source; UserError lists the names where there is no such source."""
    if name not in names():
        raise UserError(f"source {name!r}: there is none of that name; take one of {', '.join(names())}")
    return import_module(f"{__name__}.{name}").records
