"""A window of micro-steps of Stage 2: encoder once a batch, teacher once a window or a batch, student with its loss."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from caad_ds.data.batch import Batch
from caad_ds.distill.signal import TeacherSignal
from caad_ds.distill.student_objective import Timed
from caad_ds.loss.head import LMHead
from caad_ds.models.whisper_qformer.audio_states import AudioStates
from caad_ds.models.whisper_qformer.encoder import SpeechEncoder

Terms = tuple[Tensor, Tensor, dict[str, Tensor]]
Heard = tuple[Batch, AudioStates | None, tuple[Tensor | None, Tensor | None]]


class DistillStep:
    """Runs batches through encoder, teacher and student; without a teacher it is CE training.

    The encoder runs once a batch; where the teacher's has other weights, each runs once. One forward of the teacher
    takes `teacher_batch` micro-batches: where its weights come from the host, each layer then crosses the bus once for
    all of them. `part` wraps what the parts encoder, teacher and student take.
    """

    def __init__(
        self,
        engine: Any,
        encoder: SpeechEncoder,
        teacher: TeacherSignal | None,
        teacher_encoder: SpeechEncoder | None,
        teacher_batch: int = 1,
        part: Timed = nullcontext,
    ):
        self.engine = engine
        self.encoder = encoder
        self.teacher = teacher
        self.teacher_encoder = teacher_encoder
        self.teacher_batch = teacher_batch
        self.part = part
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

    def train(self, batches: list[Batch], normalizer: float) -> list[Terms]:
        """Forward, backward and the engine's step for each micro-batch of a window, inside `teacher_head`.

        Returns kd, ce and the diagnostics of each. The engine skips the step if a loss or a gradient is not finite.
        """
        terms = []
        for first in range(0, len(batches), self.teacher_batch):
            for heard in self._hear(batches[first : first + self.teacher_batch]):
                with self.part("student"):
                    loss, kd, ce, diagnostics = self._student(heard, normalizer)
                    self.engine.backward(_spoilt(loss))
                    self.engine.step()
                terms.append((kd, ce, diagnostics))
        return terms

    @torch.no_grad()
    def evaluate(self, batch: Batch, normalizer: float) -> Terms:
        """The same terms without a gradient, inside `teacher_head`."""
        [heard] = self._hear([batch])
        return self._student(heard, normalizer)[1:]

    def _hear(self, batches: list[Batch]) -> list[Heard]:
        """Each batch with the encoder's states and the teacher's hidden states, of one forward for all."""
        states: list[AudioStates | None] = [None] * len(batches)
        if self.encoder.adapters is None:  # one that trains runs in the student's engine
            states = self._perceive(self.encoder, batches)
        if self.teacher is None or self.teacher_encoder is None:
            return [(batch, state, (None, None)) for batch, state in zip(batches, states, strict=True)]
        shared = self.teacher_encoder is self.encoder
        heard: list = states if shared else self._perceive(self.teacher_encoder, batches)
        with self.part("teacher"):
            positive, negative = self.teacher.signal(Batch.cat(batches), AudioStates.cat(heard))
        rows = [len(batch.targets) for batch in batches]
        parts = positive.split(rows), negative.split(rows) if negative is not None else [None] * len(rows)
        return list(zip(batches, states, zip(*parts, strict=True), strict=True))

    def _perceive(self, encoder: SpeechEncoder, batches: list[Batch]) -> list:
        with self.part("encoder"):
            return [encoder.encode(batch.features) for batch in batches]

    def _student(self, heard: Heard, normalizer: float) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        batch, states, (positive, negative) = heard
        if self.teacher is None:
            return self.engine(batch, states, normalizer=normalizer)
        assert self._head is not None, "no head: call it inside teacher_head()"
        return self.engine(batch, states, positive, negative, self._head, normalizer)


def _spoilt(loss: Tensor) -> Tensor:
    """The loss, with gradients of NaN if it is not finite: its own may be finite, and the engine looks at nothing else.

    Decided on the device, which nothing waits for.
    """
    return loss * torch.ones_like(loss).masked_fill(~loss.detach().isfinite(), float("nan"))
