"""Measure a run: time by part, throughput, padding, memory and MFU."""

import resource
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from deepspeed.accelerator import get_accelerator

from caad_ds.data.batch import Batch
from caad_ds.training.device_datasheets import known_peak
from caad_ds.utils.flops import flop_counter


class Stopwatch:
    """Seconds by part. On CUDA it records events, and waits for the device only when read."""

    def __init__(self) -> None:
        self._spans: list[tuple] = []
        self._within: list[str] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time the block; the time of a nested part does not count for the outer one."""
        outer = self._within[-1] if self._within else None
        self._within.append(name)
        begin = _mark()
        yield
        self._spans.append((name, outer, begin, _mark()))
        self._within.pop()

    def read(self) -> dict[str, float]:
        """Return the seconds of each part since the last call."""
        if _cuda():
            torch.cuda.synchronize()
        seconds: dict[str, float] = defaultdict(float)
        for name, outer, begin, end in self._spans:
            took = begin.elapsed_time(end) / 1000 if _cuda() else end - begin
            seconds[name] += took
            if outer is not None:
                seconds[outer] -= took
        self._spans = []
        return dict(seconds)


class Meter:
    """Turns the time and work of a rank's steps into numbers to log.

    `peak` is the device's in TFLOP/s for MFU; None: looked up by the device's name, or no MFU. The FLOPs per position
    are counted in the first step, and again when `teacher_runs` changes (matrix products and attention as PyTorch
    counts them, recomputation included). If steps are not `alike`, such as when the encoder runs for new clips only,
    there is no MFU.
    """

    def __init__(self, precision: str, peak: float | None, alike: bool = True):
        self.clock = Stopwatch()
        self.peak = (peak or (_known_peak() if precision == "bf16" else None)) if alike else None
        self.flops_per_position: float | None = None
        self._teacher_runs = False
        self.restart()

    def teacher_runs(self, runs: bool) -> None:
        """Set whether the teacher ran in the last step; if its states were read, a step computes less."""
        if runs != self._teacher_runs:
            self._teacher_runs, self.flops_per_position = runs, None

    def restart(self) -> None:
        """Restart the clock after work that is not part of a step."""
        self.clock.read()
        self._began, self._steps, self._positions = time.monotonic(), 0, 0

    @contextmanager
    def step(self, batches: list[Batch]) -> Iterator[None]:
        """Measure this rank's part of an optimizer step over `batches`."""
        positions = sum(batch.input_ids.numel() for batch in batches)
        if self.peak is not None and self.flops_per_position is None:
            with flop_counter() as counter:
                yield
            self.flops_per_position = counter.get_total_flops() / positions
        else:
            yield
        self._steps += 1
        self._positions += positions

    def read(self, samples: float, tokens: float, positions: float) -> dict[str, float]:
        """Return the numbers since `restart` or the last call; the arguments are sums over all ranks in that time.

        Shares are of this rank's time; the remainder is optimizer, communication and logging.
        """
        parts = self.clock.read()
        elapsed = max(1e-9, time.monotonic() - self._began)
        values = {f"share/{name}": seconds / elapsed for name, seconds in sorted(parts.items())}
        values |= {
            "seconds_per_step": elapsed / max(1, self._steps),
            "samples_per_second": samples / elapsed,
            "tokens_per_second": tokens / elapsed,
            "padding": 1 - tokens / max(1.0, positions),
            "memory_gb": _memory() / 1e9,
        }
        if self.peak is not None and self.flops_per_position is not None:
            values["mfu"] = self.flops_per_position * self._positions / elapsed / (self.peak * 1e12)
        self._began, self._steps, self._positions = time.monotonic(), 0, 0
        return values


def _cuda() -> bool:
    """Whether the engines run on CUDA; a GPU may exist and not be used."""
    return get_accelerator().device_name() == "cuda"


def _mark() -> torch.cuda.Event | float:
    if not _cuda():
        return time.monotonic()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _known_peak() -> float | None:
    return known_peak(torch.cuda.get_device_name()) if _cuda() else None


def _memory() -> int:
    """Return the peak memory so far in bytes: of the device if there is one, else of this process."""
    if _cuda():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
