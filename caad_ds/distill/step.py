"""A window of micro-steps of Stage 2: encoder once a batch, teacher once a window or a batch, student with its loss."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from caad_ds.data.batch import Batch, PairedBatch
from caad_ds.distill.row_weights import AudioAdvantage
from caad_ds.distill.signal import TeacherSignal, TeacherStates
from caad_ds.distill.student_objective import Timed
from caad_ds.loss.head import LMHead
from caad_ds.models.audio_lm import AudioLM

Terms = tuple[Tensor, Tensor, dict[str, Tensor]]
Signals = tuple[Batch, TeacherStates | None]  # the student's batch, prepared, and the teacher's states


class DistillStep:
    """Runs batches through encoder, teacher and student; without a teacher it is CE training.

    What the student computes outside its engine runs once a batch. One forward of the teacher takes `teacher_batch`
    micro-batches: where its weights come from the host, each layer then crosses the bus once for all of them. `part`
    wraps what the parts encoder, teacher and student take. With `row_weights` the states of a whole window are there
    before the student begins, since the weights of its rows depend on each other.
    """

    def __init__(
        self,
        engine: Any,
        student: AudioLM,
        teacher: TeacherSignal | None = None,
        teacher_batch: int = 1,
        part: Timed = nullcontext,
        row_weights: AudioAdvantage | None = None,
    ):
        self.engine = engine
        self.student = student
        self.teacher = teacher
        self.teacher_batch = teacher_batch
        self.part = part
        self.row_weights = row_weights
        self._head: LMHead | None = None

    @contextmanager
    def teacher_head(self) -> Iterator[None]:
        """Holds the teacher's head for the micro-steps inside: an optimizer step's, or a validation pass's."""
        if self.teacher is None:
            yield
            return
        with self.teacher.head() as self._head:
            yield
        self._head = None

    def train(self, batches: list[PairedBatch], normalizer: float) -> list[Terms]:
        """Forward, backward and the engine's step for each micro-batch of a window, inside `teacher_head`.

        Returns kd, ce and the diagnostics of each. The engine skips the step if a loss or a gradient is not finite.
        """
        terms = []
        for signals in self._window(batches):
            with self.part("student"):
                loss, kd, ce, diagnostics = self._student(signals, normalizer)
                self.engine.backward(_spoilt(loss))
                self.engine.step()
            terms.append((kd, ce, diagnostics))
        return terms

    @torch.no_grad()
    def evaluate(self, batch: PairedBatch, normalizer: float) -> Terms:
        """The same terms without a gradient, inside `teacher_head`."""
        [signals] = self._signals([batch])
        return self._student(signals, normalizer)[1:]

    def _window(self, batches: list[PairedBatch]) -> Iterable[Signals]:
        """What the student learns from in a window, one micro-batch after the other."""
        starts = range(0, len(batches), self.teacher_batch)
        found = chain.from_iterable(self._signals(batches[at : at + self.teacher_batch]) for at in starts)
        if self.row_weights is None:
            return found
        assert self._head is not None, "no head: call it inside teacher_head()"
        signals = [(batch, states) for batch, states in found if states is not None]
        with self.part("teacher"):
            weighed = self.row_weights.weighed(signals, self._head)
        return zip((batch for batch, _ in signals), weighed, strict=True)

    def _signals(self, batches: list[PairedBatch]) -> list[Signals]:
        """Each of the student's batches, prepared, with the teacher's states."""
        ours = [self._prepared(batch.student) for batch in batches]
        if self.teacher is None:
            return [(batch, None) for batch in ours]
        with self.part("teacher"):
            return list(zip(ours, self.teacher.states(batches, ours), strict=True))

    def _prepared(self, batch: Batch) -> Batch:
        with self.part("encoder"):
            return self.student.prepare(batch)

    def _student(self, signals: Signals, normalizer: float) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        batch, states = signals
        if states is None:
            return self.engine(batch, normalizer=normalizer)
        assert self._head is not None, "no head: call it inside teacher_head()"
        teacher = states.positive, states.negative, self._head
        *terms, diagnostics = self.engine(batch, *teacher, normalizer, states.alpha, states.kd_weights)
        if states.advantage is not None and states.kd_weights is not None:
            diagnostics = diagnostics | {"advantage": states.advantage.sum()}
        return (*terms, diagnostics)


def _spoilt(loss: Tensor) -> Tensor:
    """The loss, with gradients of NaN if it is not finite: its own may be finite, and the engine looks at nothing else.

    Decided on the device, which nothing waits for.
    """
    return loss * torch.ones_like(loss).masked_fill(~loss.detach().isfinite(), float("nan"))
