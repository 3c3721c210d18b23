"""Corpora, one module each, found by the module's name.

A source is a module with `records(root: Path) -> Iterator[dict]`, which yields one record per utterance (or per
prompt) as docs/architecture.md defines it. It reads text and labels only: paths may be absolute or relative to the
working directory, durations are left to `prep ingest`, which opens every audio.
"""

import pkgutil
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

from caad_ds.errors import UserError


def names() -> list[str]:
    """The sources there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get(name: str) -> Callable[[Path], Iterator[dict]]:
    """The `records` function of a source; UserError lists the names where there is no such source."""
    if name not in names():
        raise UserError(f"source {name!r}: there is none of that name; take one of {', '.join(names())}")
    return import_module(f"{__name__}.{name}").records
