"""Time and memory measurement of the benchmarks."""

import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from caad_ds.utils.memory import PeakMemory
from caad_ds.utils.text import read_text

QUEUED = 4


def milliseconds(steps: list[Callable[[], object]], device: str, repeats: int, queued: int = QUEUED) -> list[float]:
    """Return the median time of a call of each step, measured in turns after a warm-up.

    On CUDA a turn is `queued` calls without synchronization in between.
    """
    times: list[list[float]] = []
    calls = queued if device == "cuda" else 1
    for _ in range(repeats + 1):
        times.append([])
        for step in steps:
            synchronize(device)
            start = time.perf_counter()
            for _ in range(calls):
                step()
            synchronize(device)
            times[-1].append(1e3 * (time.perf_counter() - start) / calls)
    return [sorted(column)[repeats // 2] for column in zip(*times[1:], strict=True)]


def synchronize(device: str) -> None:
    """Wait for the device's queue."""
    if device == "cuda":
        torch.cuda.synchronize()


def peak_mib(work: Callable[[], object], device: str) -> float | None:
    """Return the peak memory of the work above the memory before it; None if the platform does not report it."""
    peak = PeakMemory(device)
    work()
    return peak.mib()


def cap_memory(gb: float) -> None:
    """Limit PyTorch's allocator to `gb` of the GPU's memory; exit if there is no GPU."""
    if not torch.cuda.is_available():
        sys.exit(f"--cap-gb {gb:g}: caps a GPU's memory, and there is no GPU here; leave it out")
    torch.cuda.set_per_process_memory_fraction(gb * 1e9 / torch.cuda.get_device_properties(0).total_memory)


def cpu_name() -> str:
    """Return the CPU's name and the number of cores that this process may use."""
    lines = read_text(Path("/proc/cpuinfo")).splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{name or platform.processor() or platform.machine()}, {os.cpu_count()} cores"
