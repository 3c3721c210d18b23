"""Which samples a step sees: a pure function of seed and step, the same at any world size."""

from collections.abc import Hashable, Sequence

import numpy as np

from caad_ds.errors import UserError


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
        labels = range(size) if groups is None else groups
        self._group = np.array([numbers.setdefault(label, len(numbers)) for label in labels])
        self._permutations: dict[int, np.ndarray] = {}

    @property
    def steps_per_epoch(self) -> float:
        """Global batches an epoch, a fraction where the batch does not divide the samples."""
        return self.size / self.batch_size

    def batch(self, step: int) -> np.ndarray:
        """The sample numbers of a step's global batch: int64 [batch_size]."""
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, places = np.divmod(positions, self.size)
        return np.concatenate([self._permutation(int(epoch))[places[epochs == epoch]] for epoch in np.unique(epochs)])

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch not in self._permutations:
            while len(self._permutations) >= 2:  # a batch spans at most two epochs, unless it exceeds the data
                self._permutations.pop(next(iter(self._permutations)))
            places = np.random.default_rng([self.seed, epoch]).permutation(self._group.max() + 1)
            self._permutations[epoch] = places[self._group].argsort(kind="stable")
        return self._permutations[epoch]


def deal(indices: np.ndarray, world_size: int, rank: int, accumulation: int) -> list[np.ndarray]:
    """A rank's micro-batches of a global batch, one per accumulation step, all of the same size.

    Over all ranks they are the global batch, whatever the world size: micro-step a of rank r takes the slice
    a * world_size + r. Raises UserError if the batch does not divide by `world_size * accumulation`.
    """
    micro, rest = divmod(len(indices), world_size * accumulation)
    if rest:
        raise UserError(
            f"a global batch of {len(indices)} does not divide over {world_size} ranks x {accumulation} accumulation"
            f" steps: make it a multiple of {world_size * accumulation}"
        )
    return [indices[(a * world_size + rank) * micro :][:micro] for a in range(accumulation)]
