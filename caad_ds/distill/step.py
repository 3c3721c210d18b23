"""One micro-step of Stage 2: encoder once, teacher, student with its loss."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from caad_ds.data.batch import Batch
from caad_ds.distill.signal import TeacherSignal
from caad_ds.loss.head import LMHead
from caad_ds.models.encoder import SpeechEncoder

Terms = tuple[Tensor, Tensor, dict[str, Tensor]]


class DistillStep:
    """Runs a batch through encoder, teacher and student; without a teacher it is CE training.

    The encoder runs once a batch; where the teacher's has other weights, each runs once.
    """

    def __init__(
        self, engine: Any, encoder: SpeechEncoder, teacher: TeacherSignal | None, teacher_encoder: SpeechEncoder | None
    ):
        self.engine = engine
        self.encoder = encoder
        self.teacher = teacher
        self.teacher_encoder = teacher_encoder
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

    def train(self, batch: Batch, normalizer: float) -> Terms:
        """Forward, backward and the engine's step, inside `teacher_head`; returns kd, ce and the diagnostics of this
        micro-batch."""
        loss, kd, ce, diagnostics = self._forward(batch, normalizer)
        self.engine.backward(loss)
        self.engine.step()
        return kd, ce, diagnostics

    @torch.no_grad()
    def evaluate(self, batch: Batch, normalizer: float) -> Terms:
        """The same terms without a gradient, inside `teacher_head`."""
        return self._forward(batch, normalizer)[1:]

    def _forward(self, batch: Batch, normalizer: float) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        states = self.encoder.perceive(batch.features)
        if self.teacher is None or self.teacher_encoder is None:
            return self.engine(batch, states, normalizer=normalizer)
        shared = self.teacher_encoder is self.encoder
        heard = states if shared else self.teacher_encoder.perceive(batch.features)
        teacher_pos, teacher_neg = self.teacher.signal(batch, heard)
        assert self._head is not None, "no head: call it inside teacher_head()"
        return self.engine(batch, states, teacher_pos, teacher_neg, self._head, normalizer)
