"""How far a long step has come: a bar on a terminal, otherwise a plain line every few seconds."""

from collections.abc import Iterable, Iterator
from threading import Event, Thread
from typing import TypeVar

from rich.console import Console
from rich.progress import track as bar

T = TypeVar("T")
LINE_EVERY_SECONDS = 5.0


def track(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """The items as they come, reported to stderr as `what: done/total`, also while the next one takes its time."""
    console = Console(stderr=True)
    if console.is_terminal:
        yield from bar(items, description=what, total=total, console=console)
        return
    done, finished = 0, Event()

    def report() -> None:
        while not finished.wait(LINE_EVERY_SECONDS):
            console.print(f"{what}: {done}/{total}", highlight=False)

    reporter = Thread(target=report, daemon=True)
    reporter.start()
    try:
        for item in items:
            yield item
            done += 1
    finally:
        finished.set()
        reporter.join()
