"""Progress bars, and a heartbeat for logs."""

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TextIO, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

T = TypeVar("T")
BEAT_SECONDS = 8.0


class Heartbeat:
    """A context that prints lines, and after every 8 s without one the current activity; silent unless `enabled`."""

    def __init__(self, *, stream: TextIO | None = None, enabled: bool = True):
        self.stream = stream or sys.stdout
        self.enabled = enabled
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._said = time.monotonic()
        self.last_beat = ""
        self.set_activity(lambda: "starting")

    def set_activity(self, doing: Callable[[], str]) -> None:
        """Set the function that describes the current activity, without printing or delaying the next beat."""
        self._doing = doing
        self._began = time.monotonic()

    def begin(self, what: str) -> None:
        """Set and print the current activity."""
        self.set_activity(lambda: what)
        self.say(what)

    def say(self, line: str) -> None:
        """Print a line now; the next beat waits another interval."""
        self._said = time.monotonic()
        if self.enabled:
            print(line, file=self.stream, flush=True)

    def beat(self) -> None:
        """Print the current activity and its duration; `last_beat` is the activity printed last."""
        self.last_beat = self._doing()
        self.say(f"{self.last_beat} ({time.monotonic() - self._began:.0f} s so far)")

    def __enter__(self) -> "Heartbeat":
        if self.enabled:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self.enabled:
            self._thread.join()

    def _beat(self) -> None:
        while not self._over.wait(max(0.0, self._said + BEAT_SECONDS - time.monotonic())):
            if time.monotonic() >= self._said + BEAT_SECONDS:
                self.beat()


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Report a step on stderr; the body calls the yielded function with the number of newly finished parts.

    A live bar on a terminal, otherwise a line at the start, every 8 s and at the end; without `total` only the number
    so far and the time, and no last line if it took less than 8 s. The same count is not printed again at the end.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(what, total=total)
            yield lambda count: bar.advance(task, count)
        return
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count

    def state() -> str:
        return f"{what}: {done}/{total}" if total is not None else f"{what}: {done}" if done else what

    began = time.monotonic()
    with Heartbeat(stream=sys.stderr) as heart:
        heart.set_activity(state)
        heart.beat()
        try:
            yield advance
        finally:
            said_before = state() == heart.last_beat != what
            if not said_before and (total is not None or time.monotonic() - began >= BEAT_SECONDS):
                heart.beat()


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Print every 8 s on stderr what is running; for a step that is long only for large input."""
    with Heartbeat(stream=sys.stderr) as heart:
        heart.set_activity(lambda: what)
        yield


def track(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Yield the items, and report their number by `progress`."""
    with progress(what, total) as advance:
        for item in items:
            yield item
            advance(1)
