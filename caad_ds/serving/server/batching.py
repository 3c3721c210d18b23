"""A thread per model that answers the waiting requests in batches."""

import sys
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from threading import Condition, Event, Thread
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

from caad_ds.data.batch import Batch
from caad_ds.generation.decoding import Contrast, answer_ends, generate
from caad_ds.generation.model import Model
from caad_ds.generation.sampling import PerItemSampling, Sampling
from caad_ds.generation.streaming import Pieces
from caad_ds.serving.server.model_input import Prepared
from caad_ds.utils.errors import UserError


@dataclass(frozen=True)
class Answer:
    """A complete answer; `tokens` is its length with the end token, `stopped` whether it has one."""

    text: str
    prompt_tokens: int
    tokens: int
    stopped: bool


FAILED = 3  # consecutive answers that failed through no fault of the requests; then the worker counts as failed
Update = str | Answer | Exception  # a piece of the text, then the answer; or why there is none


class Job:
    """A request that waits for its answer; `give` is called with its events, in the worker's thread."""

    def __init__(self, prepared: Prepared, streamed: bool, give: Callable[[Update], object]):
        self.prepared, self.streamed = prepared, streamed
        self.cancelled = Event()  # set when nobody waits for it: it ends before its next token
        self.settled = False
        self.contrasted = Contrast.of(prepared.decoding)  # the same for all jobs of a batch
        self._give = give
        self._given = ""

    def piece(self, written: str) -> None:
        """Deliver the new part of the text generated so far; a retried answer repeats what was delivered before.

        RuntimeError if it is not a continuation of the text delivered before.
        """
        if not (written.startswith(self._given) or self._given.startswith(written)):
            raise RuntimeError("the answer that was begun again does not begin with what was streamed")
        if new := written[len(self._given) :]:
            self._given = written
            self._give(new)

    def drop_audio(self) -> None:
        """Drop the samples, which are not needed while the batch is generated."""
        self.prepared = replace(self.prepared, chat=replace(self.prepared.chat, clips=()))

    def settle(self, outcome: Answer | Exception) -> None:
        """Deliver the answer or the error; RuntimeError if the answer is shorter than the text delivered before."""
        if isinstance(outcome, Answer) and self._given not in ("", outcome.text):
            raise RuntimeError("the answer that was begun again ends before what was streamed")
        self.settled = True
        self.drop_audio()
        self._give(outcome)


class Worker:
    """Answers jobs with a model in the order of their arrival, in its own thread.

    A batch has up to `most` jobs of one contrast that together fit into the model's positions; whatever else differs
    between them is each row's own. It is answered as a whole before the next begins. Where a batch fails, each of its
    jobs is answered alone, and fails alone.
    """

    def __init__(self, model: Model, most: int, seen: Callable[[int], object] = lambda size: None):
        self.model, self.most, self._seen = model, most, seen
        self._waiting: deque[Job] = deque()
        self._changed = Condition()
        self._closed = False
        self._failed = 0
        self._running: Sequence[Job] = ()
        self._thread = Thread(target=self._work, name="caad-ds serve", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Return the number of jobs that are in no batch yet."""
        return len(self._waiting)

    @property
    def alive(self) -> bool:
        """Return whether the thread runs."""
        return self._thread.is_alive() and not self._closed

    @property
    def healthy(self) -> bool:
        """Return whether the thread runs and its last answers did not all fail, as after the loss of a device."""
        return self.alive and self._failed < FAILED

    def put(self, job: Job) -> None:
        """Add a job to the queue."""
        with self._changed:
            self._waiting.append(job)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Cancel a job: it ends before its next token, or leaves the queue."""
        job.cancelled.set()
        with self._changed, suppress(ValueError):
            self._waiting.remove(job)

    def close(self, seconds: float = 10.0) -> None:
        """Cancel all jobs and end the thread."""
        with self._changed:
            self._closed = True
            for job in [*self._waiting, *self._running]:
                job.cancelled.set()
            self._changed.notify()
        self._thread.join(seconds)

    def _work(self) -> None:
        while jobs := self._next():
            self._seen(len(jobs))
            self._answer(jobs)

    def _next(self) -> Sequence[Job]:
        """Wait for the jobs of the next batch and return them; none if the worker is closed."""
        with self._changed:
            self._running = ()
            while not self._running:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return ()
                left = [job for job in self._waiting if not job.cancelled.is_set()]
                self._running = self._together(left)
                self._waiting = deque(job for job in left if job not in self._running)
            return self._running

    def _together(self, waiting: Sequence[Job]) -> Sequence[Job]:
        """Return the first of the jobs, and those that can share its batch.

        A row that has ended stays in the batch, and its positions grow until the longest answer ends. So the longest
        prompt and the longest answer together are within the model's positions: beyond them rotary positions may change
        for all rows, and learned ones do not exist.
        """
        limit, prompt, answer = self.model.reader.prompts.limit, 0, 0
        jobs: list[Job] = []
        for job in waiting:
            longest = max(prompt, job.prepared.prompt_tokens), max(answer, job.prepared.decoding.max_new_tokens)
            fits = limit is None or not jobs or sum(longest) <= limit
            if fits and job.contrasted == waiting[0].contrasted and len(jobs) < self.most:
                jobs.append(job)
                prompt, answer = longest
        return jobs

    def _answer(self, jobs: Sequence[Job]) -> None:
        failure = None
        try:
            answer(self.model, jobs)
        except Exception as error:
            failure = error.with_traceback(None) if isinstance(error, torch.OutOfMemoryError) else error
        if failure is None:
            self._failed = 0
            return
        if isinstance(failure, torch.OutOfMemoryError):
            torch.cuda.empty_cache()
        left = [job for job in jobs if not (job.settled or job.cancelled.is_set())]
        if len(jobs) > 1:
            for job in left:
                self._answer([job])
            return
        if not isinstance(failure, UserError):
            self._failed += 1
            traceback.print_exception(failure, file=sys.stderr)
        for job in left:
            job.settle(failure)


def answer(model: Model, jobs: Sequence[Job]) -> None:
    """Answer jobs of one contrast as a batch; each answer is the same as that of its job alone."""
    lm, contrasted = model.lm, jobs[0].contrasted
    jobs, prompts, second = _heard(model, jobs, contrasted)
    if prompts is None:
        return
    generate(
        lm, prompts,
        max_new_tokens=max(job.prepared.decoding.max_new_tokens for job in jobs),
        contrasted=contrasted, negative=second,
        sampling=PerItemSampling([Sampling.of(job.prepared.decoding) for job in jobs]),
        stopping=Rows(jobs, prompts.attention_mask.sum(-1).tolist(), model.tokenizer, answer_ends(lm)),
    )  # fmt: skip


def _heard(
    model: Model, jobs: Sequence[Job], contrasted: Contrast | None
) -> tuple[Sequence[Job], Batch | None, Batch | None]:
    """Return the jobs whose clips can be encoded, their prompts, and those of the second path; fail the other jobs."""
    clips = model.clips()
    chats = clips.encode([job.prepared.chat for job in jobs])
    heard = [job for job in jobs if job.prepared.chat in chats]
    for job in jobs:
        if unheard := [clip for clip in job.prepared.chat.clips if clip in clips.failed]:
            job.settle(UserError(f"{unheard[0]}: {clips.failed[unheard[0]]}"))
    if not heard:
        return [], None, None
    prompts = clips.prompts(chats)
    second = None if contrasted is None else clips.negative(chats, prompts, contrasted.negative)
    return heard, prompts, second


class Rows(StoppingCriteria):
    """Reads the rows of a batch while `generate` runs; each answer is delivered when its own row ends.

    A row ends at an end token, at its own maximum length, or when its job is cancelled.
    """

    def __init__(self, jobs: Sequence[Job], prompts: Sequence[int], tokenizer: Any, ends: Sequence[int]):
        self.rows = [_Row(job, prompt, tokenizer, ends) for job, prompt in zip(jobs, prompts, strict=True)]

    def __call__(self, input_ids: Tensor, scores: Any, **more: Any) -> Tensor:
        """Return whether each row has ended, bool [paths * B]; the second path ends with the first."""
        for row, token in zip(self.rows, input_ids[: len(self.rows), -1].tolist(), strict=True):
            if not row.ended:
                row.take(token)
        ended = torch.tensor([row.ended for row in self.rows], device=input_ids.device)
        return ended.repeat(len(input_ids) // len(self.rows))


class _Row:
    """The generated part of a job's answer."""

    def __init__(self, job: Job, prompt_tokens: int, tokenizer: Any, ends: Sequence[int]):
        self.job, self.prompt_tokens, self.tokenizer, self.ends = job, prompt_tokens, tokenizer, set(ends)
        self.ended = False
        self.tokens: list[int] = []
        self._text = ""
        self._pieces = Pieces(tokenizer, self._add) if job.streamed else None

    def take(self, token: int) -> None:
        """Append the token of a step."""
        if self.job.cancelled.is_set():
            self.ended = True
            self.job.drop_audio()
            return
        self.tokens.append(token)
        if self._pieces:
            self._pieces.put(torch.tensor([token]))
        stopped = token in self.ends
        if stopped or len(self.tokens) == self.job.prepared.decoding.max_new_tokens:
            self.ended = True
            self._finish(stopped)

    def _finish(self, stopped: bool) -> None:
        [text] = self.tokenizer.batch_decode([self.tokens], skip_special_tokens=True)
        if self._pieces:
            self._pieces.finish(text.strip())
        self.job.settle(Answer(text.strip(), self.prompt_tokens, len(self.tokens), stopped))

    def _add(self, piece: str) -> None:
        self._text += piece
        self.job.piece(self._text)
