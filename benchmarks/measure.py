"""How the benchmarks take time and memory."""

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
    """Median time of a call of each step; they take turns, after a turn that warms up.

    On CUDA a turn is `queued` calls one behind the other.
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
    """Waits for the device's queue."""
    if device == "cuda":
        torch.cuda.synchronize()


def peak_mib(work: Callable[[], object], device: str) -> float | None:
    """Peak memory during the work above that before it; None where the platform does not tell."""
    peak = PeakMemory(device)
    work()
    return peak.mib()


def cap_memory(gb: float) -> None:
    """Let PyTorch's allocator take no more than `gb` of the GPU's memory; the program ends where there is no GPU."""
    if not torch.cuda.is_available():
        sys.exit(f"--cap-gb {gb:g}: caps a GPU's memory, and there is no GPU here; leave it out")
    torch.cuda.set_per_process_memory_fraction(gb * 1e9 / torch.cuda.get_device_properties(0).total_memory)


def cpu_name() -> str:
    """The processor, and how many of them this process may use."""
    lines = read_text(Path("/proc/cpuinfo")).splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{name or platform.processor() or platform.machine()}, {os.cpu_count()} cores"
