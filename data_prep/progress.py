"""How far a long step has come: a bar on a terminal, otherwise a plain line every few seconds."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track as bar

T = TypeVar("T")
LINE_EVERY_SECONDS = 5.0


def track(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """The items as they come, reported to stderr as `what: done/total`."""
    console = Console(stderr=True)
    if console.is_terminal:
        yield from bar(items, description=what, total=total, console=console)
        return
    last = time.monotonic()
    for done, item in enumerate(items, 1):
        if time.monotonic() - last >= LINE_EVERY_SECONDS:
            last = time.monotonic()
            console.print(f"{what}: {done}/{total}", highlight=False)
        yield item
