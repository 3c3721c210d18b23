"""Measure size and speed of a system; speed_tables.py defines the metrics."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers.generation.streamers import BaseStreamer

from caad_ds.generation.model import Model
from caad_ds.models.prompts.answer_turn import end_tokens
from caad_ds.utils.device import device_name
from caad_ds.utils.memory import MIB, PeakMemory


@dataclass(frozen=True)
class Timing:
    """Timing of one batch: seconds to its first and last tokens, and the number of answer tokens."""

    first: float
    last: float
    tokens: int


class Clock(BaseStreamer):
    """Record when `generate` produces each step's tokens of a batch of `rows` items; starts on construction."""

    def __init__(self, loaded: Model, rows: int):
        self.rows = rows
        self.ends = torch.tensor(end_tokens(loaded.tokenizer, loaded.lm.stops))
        self.steps: list[Tensor] = []
        self.times: list[float] = []
        synchronize(loaded.device)
        self.began = time.perf_counter()

    def put(self, value: Tensor) -> None:
        """Record the tokens [paths * rows] of a step; the prompt, which comes first, is a matrix."""
        if value.dim() == 1:
            self.times.append(time.perf_counter())
            self.steps.append(value[: self.rows])

    def end(self) -> None:
        """Do nothing: no output is buffered."""

    @property
    def timing(self) -> Timing:
        """The timing of the batch; padding after an answer's end is not counted."""
        ended = torch.isin(torch.stack(self.steps), self.ends).int()
        tokens = int((ended.cumsum(0) - ended == 0).sum())
        return Timing(self.times[0] - self.began, self.times[-1] - self.began, tokens)


class Meter:
    """Time the full-size batches of an evaluation; the first one is a warm-up and not counted."""

    def __init__(self, loaded: Model, batch_size: int):
        self.loaded = loaded
        self.batch_size = batch_size
        self.timings: list[Timing] = []
        self._peak: PeakMemory | None = None
        self._warm = False

    @contextmanager
    def batch(self, items: int) -> Iterator[Clock]:
        """Yield the clock for decoding a batch of `items`."""
        if self._warm and self._peak is None:
            self._peak = PeakMemory(self.loaded.device)
        clock = Clock(self.loaded, items)
        yield clock
        if self._warm and items == self.batch_size:
            self.timings.append(clock.timing)
        self._warm = True

    def summary(self) -> dict | None:
        """Return `speed` for `scores.json`; None if no batch was timed."""
        if not self.timings:
            return None
        working = self._peak.mib() if self._peak else None
        return description(self.loaded, working, [timed(self.timings, self.batch_size)])


def description(loaded: Model, working: float | None, runs: list[dict]) -> dict:
    """Return size and speed of a system, and the device and dtype."""
    parts = loaded.lm.parts()
    parameters = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    return {
        "parameters": {**parameters, "total": sum(parameters.values())},
        "memory_mib": {"weights": sum(map(weights_mib, parts.values())), "working": working},
        "device": device_name(loaded.device),
        "threads": torch.get_num_threads(),
        "dtype": str(loaded.lm.module.dtype).removeprefix("torch."),
        "runs": runs,
    }


def weights_mib(module: nn.Module) -> float:
    """Return the MiB of a module's parameters and buffers, shared ones once."""
    return sum(t.numel() * t.element_size() for t in [*module.parameters(), *module.buffers()]) / MIB


def timed(timings: Sequence[Timing], batch_size: int) -> dict:
    """Return the metrics of batches of one size."""
    return {
        "batch_size": batch_size,
        "batches": len(timings),
        "tokens_per_second": spread([t.tokens / t.last for t in timings]),
        "first_token_ms": spread([1e3 * t.first for t in timings]),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median and quartiles."""
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    return {"median": float(median), "low": float(low), "high": float(high)}


def synchronize(device: torch.device) -> None:
    """Wait for the device's queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
