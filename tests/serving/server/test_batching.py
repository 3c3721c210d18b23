"""Batches: who shares one, and that no job suffers from another."""

import queue
import time

import pytest
import torch

from caad_ds.serving.server import batching
from caad_ds.serving.server.asked import asked
from caad_ds.serving.server.batching import Job, Worker
from caad_ds.serving.server.limits import Limits
from caad_ds.serving.server.request import ChatRequest
from tests.serving.server.conftest import LIMITS, asking, file_of

QUESTION = "who speaks ?"


class Told(queue.SimpleQueue):
    """What is told of a job."""

    def all(self) -> list:
        """All of it, up to the answer or the failure."""
        found = [self.get(timeout=20)]
        while isinstance(found[-1], str):
            found.append(self.get(timeout=20))
        return found


def job(model, name: str, streamed: bool = False, **more) -> tuple[Job, Told]:
    """A job about a clip of that name."""
    request = ChatRequest.model_validate(asking(QUESTION, file_of(name), **more))
    told = Told()
    return Job(asked(request, model.reader, Limits(**LIMITS)), streamed, told.put), told


@pytest.fixture
def worker(model):
    sizes: list[int] = []
    made = Worker(model, 8, sizes.append)
    made.sizes = sizes
    yield made
    made.close()
    assert not made._thread.is_alive()


def alone(model, name: str, length: int = 8, **how) -> str:
    return model.answer(file_of(name), QUESTION, max_new_tokens=length, **how)


def hold(model, worker) -> None:
    """Let the worker stand at the gate, so that what comes next waits for it together."""
    worker.put(job(model, "first")[0])
    while worker.waiting:
        time.sleep(0.01)


def test_who_shares_a_batch(model, worker, gate):
    hold(model, worker)
    alphas = [None, 1.0, None, 2.0, 1.0, None]
    others = [job(model, f"{n}", caad_alpha=alpha) for n, alpha in enumerate(alphas)]
    more = [job(model, f"more {n}") for n in range(7)]
    for each, _ in [*others, *more]:
        worker.put(each)
    gate.set()
    said = [told.all()[-1].text for _, told in [*others, *more]]
    assert worker.sizes == [1, 8, 2, 1, 2]  # the first contrast's at most eight, then each in its turn
    names = [*map(str, range(6)), *(f"more {n}" for n in range(7))]
    assert said == [alone(model, name, contrast_alpha=a) for name, a in zip(names, [*alphas, *[None] * 7])]


def test_a_job_that_fails_fails_alone(model, worker, gate, monkeypatch, capsys):
    hold(model, worker)
    names = ["a", "5", "2", "c"]  # the answers about 2 and 5 are long
    jobs = {name: job(model, name, streamed=name == "2") for name in names}
    poison = jobs["5"][0].asked.chat

    class Rows(batching.Rows):
        """Fails at the sixth token of the poison, when pieces of the others are given already."""

        def __call__(self, input_ids, scores, **more):
            for row in self.rows:
                if row.job.asked.chat is poison and len(row.tokens) == 6:
                    raise torch.OutOfMemoryError("no memory")
            return super().__call__(input_ids, scores, **more)

    monkeypatch.setattr(batching, "Rows", Rows)
    for each, _ in jobs.values():
        worker.put(each)
    gate.set()
    told = {name: each.all() for name, (_, each) in jobs.items()}
    assert isinstance(told["5"][-1], torch.OutOfMemoryError) and "no memory" in capsys.readouterr().err
    for name in ("a", "2", "c"):
        assert told[name][-1].text == alone(model, name)
    assert len(told["2"]) > 2 and "".join(told["2"][:-1]) == alone(model, "2"), "a piece is given twice, or lost"
    after = job(model, "after")
    worker.put(after[0])
    assert after[1].all()[-1].text == alone(model, "after")


def test_what_is_cancelled_is_not_answered(model, worker, gate):
    hold(model, worker)
    dropped, kept = job(model, "dropped"), job(model, "kept")
    worker.put(dropped[0])
    worker.put(kept[0])
    dropped[0].cancelled.set()
    gate.set()
    assert kept[1].all()[-1].text == alone(model, "kept")
    assert dropped[1].empty() and worker.sizes == [1, 1]


def test_each_row_ends_by_itself(model, worker, endless, gate):
    hold(model, worker)
    short, gone = job(model, "short", max_tokens=40), job(model, "gone", streamed=True, max_tokens=1500)
    worker.put(short[0])
    worker.put(gone[0])
    gate.set()
    done = short[1].all()[-1]
    assert done.tokens == 40 and not done.stopped and not gone[0].settled  # it does not wait for the longer one
    assert gone[1].get(timeout=20)
    gone[0].cancelled.set()
    last = job(model, "last", max_tokens=1)
    worker.put(last[0])
    assert last[1].all() and not gone[0].settled  # the batch of 1,500 tokens has ended
    assert worker.sizes == [1, 2, 1]


def test_a_worker_that_closes_ends_what_it_writes(model, endless):
    worker = Worker(model, 8)
    running = job(model, "running", streamed=True, max_tokens=1500)
    worker.put(running[0])
    running[1].get(timeout=20)
    worker.close()
    assert not worker.alive and not worker._thread.is_alive() and not running[0].settled
