"""Steps read ahead by one thread or several: the same batches in the same order, and the same place in a stream."""

import random
import threading
import time
from itertools import count

import pytest

from caad_ds.data.loader import Loader, StreamBatches

STEPS = range(3, 20)
draw = random.Random(0)


def slow(samples):
    """A batch that takes a while to make, more or less."""
    time.sleep(draw.random() / 200)
    return tuple(samples)


def micro_batches(step):
    return [[step * 10 + n] for n in range(2)]


@pytest.mark.parametrize("workers", [1, 2, 5, 40])
def test_batches_come_in_the_order_of_steps(workers):
    loader = Loader(micro_batches, slow, workers)
    found = [read() for read in loader.steps(STEPS.start, STEPS.stop)]
    assert found == [[(step * 10,), (step * 10 + 1,)] for step in STEPS]


@pytest.mark.parametrize("workers", [1, 3])
def test_as_many_steps_are_read_ahead_as_there_are_workers(workers):
    asked = []
    loader = Loader(lambda step: asked.append(step) or micro_batches(step), slow, workers)
    for step, read in enumerate(loader.steps(0, 10)):
        read()
        assert max(asked) <= step + workers
    assert sorted(asked) == [*range(10)]


@pytest.mark.parametrize("order", [False, True])
@pytest.mark.parametrize("workers", [1, 4])
def test_an_error_is_raised_at_its_step(workers, order):
    def samples(step):
        if step == 5:
            raise ValueError("sample 5")
        return micro_batches(step)

    errors = []
    for step, read in enumerate(Loader(samples, slow, workers, order).steps(0, 8)):
        try:
            assert read()[0] == (step * 10,)
        except ValueError as error:
            errors.append((step, str(error)))
    assert errors == [(5, "sample 5")]


class Stream:
    """Ten samples a shard, given by one thread alone."""

    position = 0

    def samples(self):
        for number in count():
            self.position = number // 10
            self.threads = getattr(self, "threads", set()) | {threading.get_ident()}
            yield number


@pytest.mark.parametrize("workers", [1, 2, 6])
def test_a_stream_is_drawn_in_order_and_a_step_knows_its_place(workers):
    stream = Stream()
    batches = StreamBatches(stream, stream.samples(), micro_batch=3, accumulation=2)
    for step, read in enumerate(Loader(batches, slow, workers, order=True).steps(0, 30)):
        first = step * 6
        assert read() == [(first, first + 1, first + 2), (first + 3, first + 4, first + 5)]
        assert batches.position(step + 1) == (first + 5) // 10  # however far the others have read
    assert len(stream.threads) == 1
