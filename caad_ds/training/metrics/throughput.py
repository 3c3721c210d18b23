"""What a run costs while it runs: time by part, throughput, padding, memory, use of the device's arithmetic."""

import resource
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from deepspeed.accelerator import get_accelerator

from caad_ds.data.batch import Batch
from caad_ds.training.devices import known_peak
from caad_ds.utils.flops import flop_counter


class Stopwatch:
    """Seconds by part. On CUDA events mark begin and end, so that nothing waits for the device until it is read."""

    def __init__(self) -> None:
        self._spans: list[tuple] = []
        self._within: list[str] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Times what is done inside; what a part within takes is not the outer one's."""
        outer = self._within[-1] if self._within else None
        self._within.append(name)
        begin = _mark()
        yield
        self._spans.append((name, outer, begin, _mark()))
        self._within.pop()

    def read(self) -> dict[str, float]:
        """The seconds of each part since it was last read."""
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
    """Turns what a rank's steps took into numbers to log.

    `peak` in TFLOP/s is the device's for MFU; None: that of the device's name, or no MFU. The FLOPs per position are
    counted in the first step, and again where `teacher_runs` changes (matrix products and attention as PyTorch counts
    them, recomputation included); where steps are not `alike`, such as when the encoder runs for new clips alone, there
    is no MFU.
    """

    def __init__(self, precision: str, peak: float | None, alike: bool = True):
        self.clock = Stopwatch()
        self.peak = (peak or (_known_peak() if precision == "bf16" else None)) if alike else None
        self.flops_per_position: float | None = None
        self._teacher_runs = False
        self.restart()

    def teacher_runs(self, runs: bool) -> None:
        """Say whether the teacher has run in the last step, or its states were read: then a step computes less."""
        if runs != self._teacher_runs:
            self._teacher_runs, self.flops_per_position = runs, None

    def restart(self) -> None:
        """Begin again, after something that is no step."""
        self.clock.read()
        self._began, self._steps, self._positions = time.monotonic(), 0, 0

    @contextmanager
    def step(self, batches: list[Batch]) -> Iterator[None]:
        """Wraps this rank's part of an optimizer step over `batches`."""
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
        """The numbers since `restart` or the last reading; the arguments are sums over all ranks in that time.

        Shares are of this rank's time; what is in none of them is optimizer, communication and logging.
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
    """Whether the engines run on CUDA; a GPU may be there and not be used."""
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
    """The most that was held so far, in bytes: of the device where there is one, else of this process."""
    if _cuda():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
