"""The samples of each step: a pure function of seed and step, the same at any world size."""

from bisect import bisect_right
from collections.abc import Hashable, Sequence
from typing import Protocol

import numpy as np

from caad_ds.utils.errors import UserError


class Order(Protocol):
    """An endless order of samples, cut into steps."""

    @property
    def steps_per_epoch(self) -> float:
        """Steps per epoch, fractional if an epoch ends within a step."""
        ...

    def micro_batches(self, step: int, world_size: int, rank: int, accumulation: int) -> list[np.ndarray]:
        """Return a rank's micro-batches of a step, one per accumulation step; all ranks' are the step's samples."""
        ...


def ends_epoch(step: int, steps_per_epoch: float) -> bool:
    """Return whether this step or the previous one has samples of two epochs, or the first of an epoch."""
    return step // steps_per_epoch != (step + 1) // steps_per_epoch or (
        step > 0 and (step - 1) // steps_per_epoch != step // steps_per_epoch
    )


class GlobalOrder:
    """An endless stream of sample numbers cut into global batches.

    Position p of the stream belongs to epoch p // size and is that epoch's permutation at p % size; step s takes the
    positions [s * batch_size, (s + 1) * batch_size). No sample is dropped, a batch may span two epochs, and the
    position of a run is its step. The permutation of an epoch is numpy's PCG64 seeded with (seed, epoch).

    With `groups`, one label per sample, the groups are permuted and the samples of a group stay together.
    """

    def __init__(self, size: int, batch_size: int, seed: int, groups: Sequence[Hashable] | None = None) -> None:
        least = {"number of samples": (size, 1), "global batch size": (batch_size, 1), "seed": (seed, 0)}
        for name, (value, bound) in least.items():
            if value < bound:
                raise UserError(f"the {name} of the data order is {value}: it must be at least {bound}")
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        numbers: dict[Hashable, int] = {}
        if groups is None:
            self._group = np.arange(size)
        else:
            self._group = np.array([numbers.setdefault(label, len(numbers)) for label in groups])
        self._permutations: dict[int, np.ndarray] = {}

    @property
    def steps_per_epoch(self) -> float:
        """Global batches per epoch, fractional if the batch size does not divide the samples."""
        return self.size / self.batch_size

    def batch(self, step: int) -> np.ndarray:
        """Return the sample numbers of a step's global batch: int64 [batch_size]."""
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, places = np.divmod(positions, self.size)
        return np.concatenate([self._permutation(int(epoch))[places[epochs == epoch]] for epoch in np.unique(epochs)])

    def micro_batches(self, step: int, world_size: int, rank: int, accumulation: int) -> list[np.ndarray]:
        """Return a rank's equal micro-batches of a step: micro-step a of rank r takes slice a * world_size + r.

        UserError if the batch does not divide by `world_size * accumulation`.
        """
        micro, rest = divmod(self.batch_size, world_size * accumulation)
        if rest:
            raise UserError(
                f"a global batch of {self.batch_size} does not divide over {world_size} ranks x {accumulation} "
                f"accumulation steps: make it a multiple of {world_size * accumulation}"
            )
        batch = self.batch(step)
        return [batch[(a * world_size + rank) * micro :][:micro] for a in range(accumulation)]

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch not in self._permutations:
            while len(self._permutations) >= 2:  # a batch spans at most two epochs, unless it exceeds the data
                self._permutations.pop(next(iter(self._permutations)))
            places = np.random.default_rng([self.seed, epoch]).permutation(self._group.max() + 1)
            self._permutations[epoch] = places[self._group].argsort(kind="stable")
        return self._permutations[epoch]


class TokenBudgetOrder:
    """An endless stream of micro-batches of at most `micro_tokens` tokens each by `lengths`, padding included.

    An epoch is a permutation (numpy's PCG64 seeded with (seed, epoch)) cut into windows; within a window the samples
    are sorted by length and cut into micro-batches, which are shuffled. Step s takes the micro-batches
    [s * per_step, (s + 1) * per_step): any world size that divides `per_step` sees the same samples in the same step,
    and every rank the same number of micro-batches. `lengths` in tokens, int [size], none above `micro_tokens`;
    `window` in steps.
    """

    def __init__(self, lengths: Sequence[int], micro_tokens: int, per_step: int, window: int, seed: int) -> None:
        self.lengths = np.asarray(lengths)
        self.micro_tokens = micro_tokens
        self.per_step = per_step
        self.window = max(1, int(window * per_step * micro_tokens / self.lengths.mean()))
        self.seed = seed
        self._starts = [0]  # starts of the epochs in the stream, computed so far
        self._plans: dict[int, list[np.ndarray]] = {}

    @property
    def steps_per_epoch(self) -> float:
        """Steps of the first epoch, fractional if it ends within a step; others differ little."""
        return len(self._plan(0)) / self.per_step

    def micro_batches(self, step: int, world_size: int, rank: int, accumulation: int) -> list[np.ndarray]:
        """Return a rank's micro-batches of a step: micro-step a of rank r takes number a * world_size + r."""
        first = step * self.per_step
        return [self._micro_batch(first + a * world_size + rank) for a in range(accumulation)]

    def _micro_batch(self, position: int) -> np.ndarray:
        while position >= self._starts[-1]:
            self._starts.append(self._starts[-1] + len(self._plan(len(self._starts) - 1)))
        epoch = bisect_right(self._starts, position) - 1
        return self._plan(epoch)[position - self._starts[epoch]]

    def _plan(self, epoch: int) -> list[np.ndarray]:
        """Return all micro-batches of an epoch in order."""
        if epoch not in self._plans:
            while len(self._plans) >= 2:
                self._plans.pop(next(iter(self._plans)))
            draw = np.random.default_rng([self.seed, epoch])
            samples = draw.permutation(len(self.lengths))
            plan = []
            for start in range(0, len(samples), self.window):
                cut = self._cut(samples[start : start + self.window])
                plan += [cut[n] for n in draw.permutation(len(cut))]
            self._plans[epoch] = plan
        return self._plans[epoch]

    def _cut(self, samples: np.ndarray) -> list[np.ndarray]:
        """Sort samples by length, and cut before one would exceed the budget with all padded to its length."""
        samples = samples[self.lengths[samples].argsort(kind="stable")]
        starts = [0]
        for n, length in enumerate(self.lengths[samples].tolist()):
            if (n - starts[-1] + 1) * length > self.micro_tokens:
                starts.append(n)
        return np.split(samples, starts[1:])
