"""Open the training data, and load the micro-batches of steps ahead of time."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np
import torch

from caad_ds.config.schema import Config
from caad_ds.data.batch import PairedBatch
from caad_ds.data.decoded_sample import Sample
from caad_ds.data.sampler import Order
from caad_ds.data.shard_reader import IndexedReader
from caad_ds.data.stream import StreamReader

KEPT = 1024  # steps whose stream position is kept: more than are read ahead
Collate = Callable[[list[Sample]], PairedBatch]


class Loader:
    """Loads this rank's micro-batches of every step; while a step runs, the next ones are read.

    `samples` returns those of a step, a list per micro-batch. `workers` threads make the batches of as many steps
    ahead. With `order`, for streams, an extra thread draws samples in sequence. A reading error is raised when its step
    is requested.
    """

    def __init__(
        self,
        samples: Callable[[int], Iterable[list[Sample]]],
        collate: Collate,
        workers: int = 1,
        order: bool = False,
    ):
        self.samples = samples
        self.collate = collate
        self.workers = workers
        self.order = order

    def steps(self, start: int, stop: int) -> Iterator[Callable[[], list[PairedBatch]]]:
        """Yield for each step a callable that returns its micro-batches, or raises their reading error."""
        ahead: deque[Future[list[PairedBatch]]] = deque()
        with (
            ThreadPoolExecutor(1, thread_name_prefix="stream") as source,
            ThreadPoolExecutor(self.workers, thread_name_prefix="loader") as pool,
        ):
            for step in range(start, stop + self.workers):
                if step < stop:
                    ahead.append(self._submit(source, pool, step))
                if step >= start + self.workers:
                    yield ahead.popleft().result

    def read(self, step: int) -> list[PairedBatch]:
        """Return the micro-batches of one step."""
        return [self.collate(samples) for samples in self.samples(step)]

    def _submit(self, source: ThreadPoolExecutor, pool: ThreadPoolExecutor, step: int) -> Future[list[PairedBatch]]:
        if not self.order:
            return pool.submit(self.read, step)
        drawn = source.submit(lambda: list(self.samples(step)))
        return pool.submit(lambda: [self.collate(samples) for samples in drawn.result()])


class IndexedBatches:
    """A rank's samples of a step, from an order."""

    def __init__(self, reader: IndexedReader, order: Order, rank: int, world_size: int, accumulation: int):
        self.reader = reader
        self.order = order
        self.share = (world_size, rank, accumulation)

    def __call__(self, step: int) -> Iterator[list[Sample]]:
        return ([self.reader[int(i)] for i in numbers] for numbers in self.order.micro_batches(step, *self.share))

    def position(self, step: int) -> int:
        """Return a checkpoint's stream position after `step` steps: an order needs none."""
        return 0


class StreamBatches:
    """A rank's samples of a step from `stream`, read by `reader`; steps must be requested in sequence."""

    def __init__(self, reader: StreamReader, stream: Iterator[Sample], micro_batch: int, accumulation: int):
        self.reader = reader
        self.shape = (micro_batch, accumulation)
        self._stream = stream
        self._positions: dict[int, int] = {}

    def __call__(self, step: int) -> Iterator[list[Sample]]:
        micro_batch, accumulation = self.shape
        for _ in range(accumulation):
            yield list(islice(self._stream, micro_batch))
        self._positions[step + 1] = self.reader.position
        self._positions.pop(step - KEPT, None)

    def position(self, step: int) -> int:
        """Return the shard that was being read after the samples of `step` steps."""
        return self._positions.get(step, 0)


def once(reader: IndexedReader, collate: Collate, rank: int, world_size: int, batch_size: int) -> Iterator[PairedBatch]:
    """Yield every sample once over all ranks, in equal numbers of batches.

    If the last round is short, a rank repeats a sample with its labels ignored.
    """
    rounds = -(-len(reader) // (world_size * batch_size))
    for number in range(rounds):
        wanted = (number * world_size + rank) * batch_size + np.arange(batch_size)
        batch = collate([reader[int(i) % len(reader)] for i in wanted])
        yield batch.ignoring(torch.from_numpy(wanted >= len(reader)))


def open_data(cfg: Config, rank: int, world_size: int) -> IndexedReader | StreamReader:
    """Open the training data with `data.reader`; UserError if it is missing (for a stream, only when it is read)."""
    data = cfg.data
    if data.reader == "indexed":
        return IndexedReader(str(data.train))
    common = {"seed": cfg.run.seed, "rank": rank, "world_size": world_size}
    return StreamReader(data.train, buffer=data.shuffle_buffer, skip=data.skip_broken, **common)
