"""Kills ranks at random moments and restarts the run: does it end with the weights of an undisturbed run?

    python benchmarks/soak.py [--kills 50] [--seed 0]

A tiny student is distilled on two CPU ranks with DeepSpeed ZeRO-3 for both models and a checkpoint every other step.
SIGKILL hits a random rank; the other is ended as a launcher would, and the run is restarted until it finishes. Moments
are drawn in turns from loading, training and writing of a checkpoint; the table counts where they hit. Final weights
are compared bit for bit with those of an undisturbed run. Each run gets up to five kills.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.training.launching import Run, weights
from tests.training.tiny import config, make_world

STEPS, EVERY, RANKS = 16, 2, 2
KILLS_A_RUN = 5
PLACES = ("checkpoint", "loading", "step")
POLL_SECONDS = 0.005
PATIENCE_SECONDS = 600


class Disturber:
    """Kills a random rank at a random moment, and restarts the run."""

    def __init__(self, file: Path, out: Path, drawn: random.Random):
        self.file = file
        self.out = out
        self.drawn = drawn
        self.loading_seconds = 3.0  # until it is measured
        self.writing_seconds: float | None = None

    def kill(self, aim: str) -> str | None:
        """Start the run and kill a random rank near `aim`; returns where it hit, None if the run ended before."""
        self.began = time.time()
        run = Run(self.file, RANKS)
        if not self._wait(run, aim):
            finish(run)
            return None
        hit = self.place(run)
        run.processes[self.drawn.randrange(RANKS)].kill()
        # Like a launcher: the other ranks may wait forever for the killed one.
        time.sleep(self.drawn.uniform(0, 0.05))
        for process in run.processes:
            process.kill()
        run.wait()
        return hit

    def _wait(self, run: Run, aim: str) -> bool:
        """Wait for the moment to kill; returns False if the run ends before."""
        alive = run.processes[0].is_alive
        if aim == "loading":
            return self._sleep(run, self.drawn.uniform(0, self.loading_seconds))
        while alive() and "samples/s" not in run.output():
            time.sleep(POLL_SECONDS)
        self.loading_seconds = time.time() - self.began
        target = run.output().count("samples/s") + self.drawn.randrange(2 * EVERY)
        while alive() and run.output().count("samples/s") < target:
            time.sleep(POLL_SECONDS)
        if aim == "step":
            return self._sleep(run, self.drawn.uniform(0, 0.1))
        if self.writing_seconds is None:
            self._until(run, True)
            began = time.time()
            self._until(run, False)
            self.writing_seconds = time.time() - began
        self._until(run, True)
        return self._sleep(run, self.drawn.uniform(0, self.writing_seconds))

    def _until(self, run: Run, writing: bool) -> None:
        while run.processes[0].is_alive() and self._writing() != writing:
            time.sleep(POLL_SECONDS)

    def _sleep(self, run: Run, seconds: float) -> bool:
        time.sleep(seconds)
        return all(process.is_alive() for process in run.processes)

    def place(self, run: Run) -> str:
        """Return the phase that the run is in."""
        if self._writing():
            return "checkpoint"
        return "step" if "samples/s" in run.output() else "loading"

    def _writing(self) -> bool:
        for partial in (self.out / "checkpoints").glob("*.partial"):
            with suppress(FileNotFoundError):  # renamed meanwhile
                if partial.stat().st_mtime > self.began:  # else it was left by a rank killed earlier
                    return True
        return False


def disturbed(file: Path, out: Path, kills: int, drawn: random.Random) -> Counter:
    """Run `file` to its end with up to `kills` kills; returns where they hit."""
    disturber = Disturber(file, out, drawn)
    hits: Counter = Counter()
    for number in range(kills):
        hit = disturber.kill(PLACES[number % len(PLACES)])
        if hit is None:
            return hits
        hits[hit] += 1
    finish(Run(file, RANKS))
    return hits


def finish(run: Run) -> None:
    """Wait for a run to end, with patience for a busy machine."""
    assert run.wait(PATIENCE_SECONDS) == [0] * RANKS, "\n".join(run.output(rank) for rank in range(RANKS))


def equal(first: Path, second: Path) -> bool:
    """Return whether two runs ended with the same weights, bit for bit."""
    a, b = weights(first), weights(second)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def soak_config(world: Path, out: Path) -> Path:
    """Write the configuration of a run; returns its path."""
    return config(
        world, out, optimizer={"steps": STEPS}, checkpoint={"every": EVERY, "keep": 3}, tracking={"enabled": False}
    )


def main() -> int:
    """Print the table; returns 1 if any run ended with other weights than the undisturbed one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, metavar="N", help="how many in all (default 50)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and ranks (default 0)")
    args = parser.parse_args()
    drawn = random.Random(args.seed)
    total: Counter = Counter()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        world = root / "world"
        world.mkdir()
        make_world(world)
        print("running undisturbed", flush=True)
        whole = root / "whole"
        finish(Run(soak_config(world, whole), RANKS))
        print(f"\n| run | kills | {' | '.join(PLACES)} | weights equal |\n|---|---|---|---|---|---|")
        number = 0
        while (left := args.kills - total.total()) > 0:
            number += 1
            out = root / f"run-{number}"
            hits = disturbed(soak_config(world, out), out, min(left, KILLS_A_RUN), drawn)
            same = equal(whole, out)
            failed += not same
            total += hits
            print(row(str(number), hits, "yes" if same else "NO"), flush=True)
        print(row("all", total, "yes" if not failed else f"NO, {failed} runs of {number}"))
    return int(failed > 0)


def row(name: str, hits: Counter, verdict: str) -> str:
    """Format a line of the table."""
    return f"| {name} | {hits.total()} | {' | '.join(str(hits[place]) for place in PLACES)} | {verdict} |"


if __name__ == "__main__":
    sys.exit(main())
