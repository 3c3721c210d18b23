"""Batches: which jobs share one, and that no job affects another."""

import queue
import time
import weakref

import pytest
import torch

import caad_ds
from caad_ds.models.speech_lm.folder import save
from caad_ds.serving.server import batching
from caad_ds.serving.server.batching import Job, Worker
from caad_ds.serving.server.chat_request import ChatRequest
from caad_ds.serving.server.decoded_audio_limit import Room, Share
from caad_ds.serving.server.limits import Limits
from caad_ds.serving.server.model_input import prepare
from caad_ds.utils.errors import AudioError, UserError
from tests.evaluation.conftest import tiny_parts
from tests.serving.server.conftest import LIMITS, asking, file_of

QUESTION = "who speaks ?"


class Updates(queue.SimpleQueue):
    """The events of a job."""

    def all(self) -> list:
        """Return all events up to the answer or the failure."""
        found = [self.get(timeout=20)]
        while isinstance(found[-1], str):
            found.append(self.get(timeout=20))
        return found


def job(model, name: str, streamed: bool = False, question: str = QUESTION, **more) -> tuple[Job, Updates]:
    """A job about a clip of that name."""
    request = ChatRequest.model_validate(asking(question, file_of(name), **more))
    updates = Updates()
    return Job(prepare(request, model.reader, Limits(**LIMITS), Share(Room(1e6, 1e6))), streamed, updates.put), updates


@pytest.fixture
def worker(model):
    sizes: list[int] = []
    made = Worker(model, 8, sizes.append)
    made.sizes = sizes
    yield made
    made.close()
    assert not made._thread.is_alive()


def alone(model, name: str, length: int = 8, **options) -> str:
    return model.answer(file_of(name), QUESTION, max_new_tokens=length, **options)


def hold(model, worker) -> None:
    """Block the worker at the gate, so that the next jobs wait together."""
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
    said = [updates.all()[-1].text for _, updates in [*others, *more]]
    assert worker.sizes == [1, 8, 2, 1, 2]  # the first contrast's at most eight, then each in its turn
    names = [*map(str, range(6)), *(f"more {n}" for n in range(7))]
    assert said == [alone(model, name, contrast_alpha=a) for name, a in zip(names, [*alphas, *[None] * 7])]


def test_a_long_prompt_and_a_long_answer_share_no_batch_beyond_the_positions(tmp_path, endless, gate):
    """Beyond 60 positions this model has other frequencies, for all rows of a batch, even if that row has ended."""
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [32.0] * 4}
    rope |= {"factor": 4.0, "original_max_position_embeddings": 60}
    save(tmp_path, *tiny_parts(max_position_embeddings=240, rope_parameters=rope))
    model = caad_ds.load(tmp_path, device="cpu")
    assert model.reader.prompts.limit == 60
    wanted = [(40, 4), (1, 45), (30, 6), (1, 40), (2, 45)]  # words of the prompt, tokens of the answer

    def said(most: int, sizes: list[int]) -> list[str]:
        worker, jobs = Worker(model, most, sizes.append), []
        gate.clear()
        hold(model, worker)
        for words, length in wanted:
            jobs.append(job(model, "one", question="who " * words + "speaks ?", max_tokens=length))
            worker.put(jobs[-1][0])
        gate.set()
        texts = [updates.all()[-1].text for _, updates in jobs]
        worker.close()
        return texts

    sizes: list[int] = []
    assert said(8, sizes) == said(1, [])
    assert sizes == [1, 2, 3]  # the first is served first, with what fits beside it


def test_a_job_that_fails_fails_alone(model, worker, gate, monkeypatch, capsys):
    hold(model, worker)
    names = ["a", "5", "2", "c"]  # the answers about 2 and 5 are long
    jobs = {name: job(model, name, streamed=name == "2") for name in names}
    poison = jobs["5"][0].prepared.chat

    class Rows(batching.Rows):
        """Fails at the sixth token of the poison, when pieces of the others are given already."""

        def __call__(self, input_ids, scores, **more):
            for row in self.rows:
                if row.job.prepared.chat is poison and len(row.tokens) == 6:
                    raise torch.OutOfMemoryError("no memory")
            return super().__call__(input_ids, scores, **more)

    monkeypatch.setattr(batching, "Rows", Rows)
    for each, _ in jobs.values():
        worker.put(each)
    gate.set()
    updates = {name: each.all() for name, (_, each) in jobs.items()}
    assert isinstance(updates["5"][-1], torch.OutOfMemoryError) and "no memory" in capsys.readouterr().err
    for name in ("a", "2", "c"):
        assert updates[name][-1].text == alone(model, name)
    assert len(updates["2"]) > 2 and "".join(updates["2"][:-1]) == alone(model, "2"), "a piece is given twice, or lost"
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


@pytest.mark.parametrize("again", ["another", "shorter"])
def test_a_stream_is_not_joined_from_two_answers(model, worker, endless, gate, monkeypatch, again):
    """The batch fails after some pieces; answered alone, the job gets another answer."""
    hold(model, worker)
    streamed, beside = job(model, "2", streamed=True, max_tokens=40), job(model, "a", max_tokens=40)

    class Rows(batching.Rows):
        def __call__(self, input_ids, scores, **more):
            if len(self.rows) == 2 and len(self.rows[0].tokens) == 30:
                raise torch.OutOfMemoryError("no memory")
            if len(self.rows) == 1 and self.rows[0].job is streamed[0]:
                if again == "shorter" and self.rows[0].tokens:
                    self.rows[0].ended = True
                    self.rows[0]._finish(True)
                else:
                    input_ids = (input_ids + 7) % 20 if again == "another" else input_ids
            return super().__call__(input_ids, scores, **more)

    monkeypatch.setattr(batching, "Rows", Rows)
    worker.put(streamed[0])
    worker.put(beside[0])
    gate.set()
    *pieces, failure = streamed[1].all()
    assert pieces and isinstance(failure, RuntimeError) and "begun again" in str(failure)
    assert beside[1].all()[-1].tokens == 40


def test_a_clip_that_cannot_be_heard_fails_its_own_job(model, worker, gate, monkeypatch):
    hold(model, worker)
    names = ["a", "b", "c"]
    jobs = {name: job(model, name) for name in names}
    deaf = jobs["b"][0].prepared.chat.clips[0]
    measured = type(deaf).measured

    def broken(clip):
        if clip is deaf:
            raise AudioError("it is noise")
        return measured(clip)

    monkeypatch.setattr(type(deaf), "measured", broken)
    for each, _ in jobs.values():
        worker.put(each)
    gate.set()
    updates = {name: each.all()[-1] for name, (_, each) in jobs.items()}
    assert isinstance(updates["b"], UserError) and str(updates["b"]) == "clip 1: it is noise"
    assert [updates[name].text for name in ("a", "c")] == [alone(model, name) for name in ("a", "c")]
    assert worker.sizes == [1, 3]


def test_a_worker_that_fails_again_and_again_is_not_healthy(model, worker, monkeypatch, capsys):
    failures: list[Exception] = [UserError("no")] * 4 + [RuntimeError("CUDA error")] * batching.FAILED

    def failing(*given, **options):
        raise failures.pop(0)

    with monkeypatch.context() as broken:
        broken.setattr(batching, "generate", failing)
        for left in reversed(range(len(failures))):
            assert worker.healthy, "what the requests are at fault for counts"
            one, updates = job(model, "a")
            worker.put(one)
            updates.all()
            assert len(failures) == left
    assert worker.alive and not worker.healthy
    assert capsys.readouterr().err.count("CUDA error") >= batching.FAILED
    one, updates = job(model, "a")
    worker.put(one)
    updates.all()
    end = time.monotonic() + 5
    while not worker.healthy and time.monotonic() < end:
        time.sleep(0.01)
    assert worker.healthy


def test_samples_are_held_no_longer_than_they_are_needed(model, worker, endless, gate):
    """Neither in a batch that others keep running, nor in the queue."""
    hold(model, worker)
    short, gone, long = (
        job(model, "a", max_tokens=4),
        job(model, "b", max_tokens=1500),
        job(model, "c", max_tokens=1500),
    )
    for each, _ in (short, gone, long):
        worker.put(each)
    samples = {name: weakref.ref(each.prepared.chat.clips[0].waveform) for name, (each, _) in
               {"short": short, "gone": gone}.items()}  # fmt: skip
    gate.set()
    short[1].all()
    gone[0].cancelled.set()
    waiting, _ = job(model, "d")
    samples["waiting"] = weakref.ref(waiting.prepared.chat.clips[0].waveform)
    worker.put(waiting)
    worker.cancel(waiting)
    del waiting
    end = time.monotonic() + 5
    while any(each() is not None for each in samples.values()) and time.monotonic() < end:
        time.sleep(0.01)
    assert [name for name, each in samples.items() if each() is not None] == [] and not long[0].settled
    long[0].cancelled.set()
