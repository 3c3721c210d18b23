"""The memory that Python's allocator holds for a piece of work."""

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ATTEMPTS = 3


@contextmanager
def traced() -> Iterator[None]:
    """Trace allocations within the block, and end with it."""
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


def peak() -> int:
    """Bytes at the highest since tracing began or the peak was last reset."""
    return tracemalloc.get_traced_memory()[1]


def held() -> int:
    """Return the bytes allocated since tracing began and not freed."""
    return tracemalloc.get_traced_memory()[0]


def reset_peak() -> int:
    """Begin a new peak here; returns the bytes held now."""
    tracemalloc.reset_peak()
    return held()


def in_one_attempt(check: Callable[[int], bool]) -> bool:
    """Whether `check(attempt)`, which does the work again and compares its memory, is true in one of three attempts.

    What is traced is the whole process: a thread that an earlier test left behind, or a module imported for the first
    time, adds to one attempt and not to all.
    """
    return any(check(attempt) for attempt in range(ATTEMPTS))
