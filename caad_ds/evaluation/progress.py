"""How far a long step has come, told even while one of its parts takes long."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

BEAT_SECONDS = 5.0


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Reports a step on stderr; the body calls what it is given with the number of parts that it has finished.

    A live bar on a terminal, otherwise a line at the start, every 5 s and at the end. Without `total` only the time.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(what, total=total)
            yield lambda count: bar.advance(task, count)
        return
    with _beating(what, total) as advance:
        yield advance


@contextmanager
def _beating(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    began, done, over = time.monotonic(), 0, threading.Event()

    def say() -> None:
        count = "" if total is None else f" {done}/{total}"
        print(f"{what}:{count} ({time.monotonic() - began:.0f} s)", file=sys.stderr, flush=True)

    def advance(count: int) -> None:
        nonlocal done
        done += count

    def beat() -> None:
        while not over.wait(BEAT_SECONDS):
            say()

    say()
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield advance
    finally:
        over.set()
        thread.join()
        say()
