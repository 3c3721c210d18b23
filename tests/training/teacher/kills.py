"""Kills of two ranks that fill a cache."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random

from tests.training.launching import Run
from tests.training.teacher.ranks import die_in_writing

WAIT = 300

Start = Callable[..., Run]  # of the environment, and `prepare` if it is not the usual one


def kill(run: Run) -> list[int | None]:
    """Kill all ranks, as a launcher does; their exit codes."""
    for process in run.processes:
        process.kill()
    return run.wait(WAIT)


def killed(start: Start, rank: int, at: str) -> bool:
    """Whether a rank was killed where it should be, and the others with it."""
    run = start(prepare=die_in_writing, DIES=str(rank), AT=at)
    end = time.monotonic() + WAIT
    while all(process.is_alive() for process in run.processes) and time.monotonic() < end:
        time.sleep(0.01)
    hit = run.processes[rank].exitcode == -9
    kill(run)
    return hit


def kill_at_random(start: Start, drawn: Random, moments: Sequence[str], begun: str, cache: Path) -> int:
    """Kill five starts, in a write or at any moment after `begun` was printed.

    Returns how many were killed there; one killed at any moment counts only if it had written to the cache.
    """
    hits = 0
    for _ in range(5):
        if drawn.random() < 0.6:
            hits += killed(start, drawn.randrange(2), drawn.choice(moments))
            continue
        before = written(cache)
        run = start()
        run.wait_for(begun, WAIT)
        time.sleep(drawn.uniform(0, 2))
        fills = run.processes[0].is_alive() and "whole (" not in run.output()
        kill(run)
        hits += fills and not written(cache) <= before
    return hits


def written(cache: Path) -> set[tuple[str, int, int]]:
    """Name, inode and length of each file of rows, unfinished ones included."""
    found = set()
    for path in cache.glob("*.rows*"):
        with suppress(FileNotFoundError):  # renamed or removed meanwhile
            state = path.stat()
            found.add((path.name, state.st_ino, state.st_size))
    return found


def kill_in_filling(start: Start, cache: Path, seconds: float) -> list[int | None]:
    """Kill all ranks so long after the first write to the cache; their exit codes."""
    before = written(cache)
    run = start()
    end = time.monotonic() + WAIT
    while written(cache) <= before and run.processes[0].is_alive() and time.monotonic() < end:
        time.sleep(0.005)
    assert not written(cache) <= before, run.output()
    time.sleep(seconds)
    return kill(run)
