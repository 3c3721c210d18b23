"""Micro-batches of a step, read one step ahead."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from caad_ds.data.batch import IGNORE, Batch, Sample
from caad_ds.data.reader import IndexedReader
from caad_ds.data.sampler import Order

Collate = Callable[[list[Sample]], Batch]


class Loader:
    """This rank's micro-batches of every step from `start` on; while a step runs, the next one is read.

    An error in reading is raised where its step is asked for.
    """

    def __init__(
        self, reader: IndexedReader, order: Order, collate: Collate, rank: int, world_size: int, accumulation: int
    ):
        self.reader = reader
        self.order = order
        self.collate = collate
        self.share = (world_size, rank, accumulation)

    def steps(self, start: int, stop: int) -> Iterator[Callable[[], list[Batch]]]:
        """For each step a callable that gives its micro-batches, or raises what reading them raised."""
        with ThreadPoolExecutor(1, thread_name_prefix="loader") as pool:
            ahead = pool.submit(self.read, start)
            for step in range(start, stop):
                current = ahead
                if step + 1 < stop:
                    ahead = pool.submit(self.read, step + 1)
                yield current.result

    def read(self, step: int) -> list[Batch]:
        """The micro-batches of one step."""
        return [self.collate([self.reader[int(i)] for i in numbers]) for numbers in self.order.deal(step, *self.share)]


def once(reader: IndexedReader, collate: Collate, rank: int, world_size: int, batch_size: int) -> Iterator[Batch]:
    """Every sample once over all ranks, in equal numbers of batches.

    Where the last round is short, a rank repeats a sample with its labels ignored, so that it counts for nothing.
    """
    rounds = -(-len(reader) // (world_size * batch_size))
    for number in range(rounds):
        wanted = (number * world_size + rank) * batch_size + np.arange(batch_size)
        batch = collate([reader[int(i) % len(reader)] for i in wanted])
        batch.labels[wanted >= len(reader)] = IGNORE
        yield batch
