"""Measure peak memory."""

import ctypes
from pathlib import Path

import torch

from caad_ds.utils.text import read_text

MIB = 2**20


class PeakMemory:
    """Peak memory since creation, above the level then: allocated bytes on CUDA, resident bytes on Linux CPUs.

    On a CPU it is the process's, so nothing else should run in it.
    """

    def __init__(self, device: torch.device | str):
        self.cuda = torch.device(device).type == "cuda"
        self._before = self._start()

    def mib(self) -> float | None:
        """Return MiB; None if the platform does not report it."""
        if self._before is None:
            return None
        peak = torch.cuda.max_memory_allocated() if self.cuda else _resident("VmHWM")
        return max(0, peak - self._before) / MIB

    def _start(self) -> int | None:
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            return torch.cuda.memory_allocated()
        try:
            # Memory cached by the allocator would hide what is needed.
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, the peak of the resident set
            return _resident("VmRSS")
        except (OSError, AttributeError):
            return None


def _resident(field: str) -> int:
    """Read a line of /proc/self/status, in bytes."""
    lines = read_text(Path("/proc/self/status")).splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))
