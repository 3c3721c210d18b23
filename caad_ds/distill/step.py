"""A window of Stage 2 micro-steps: encoder once per batch, teacher once per window or batch, student with its loss."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from caad_ds.data.batch import Batch, PairedBatch
from caad_ds.distill.answer_rows import DrawnRows
from caad_ds.distill.rollouts import Rollouts
from caad_ds.distill.row_weights import AudioAdvantage
from caad_ds.distill.student_objective import Timed
from caad_ds.distill.teacher_signal import TeacherSignal, TeacherStates
from caad_ds.loss.head import LMHead
from caad_ds.models.audio_lm import AudioLM
from caad_ds.utils.ranks import world

Terms = tuple[Tensor, Tensor, dict[str, Tensor]]
Signals = tuple[Batch, TeacherStates | None]  # the student's batch, prepared, and the teacher's states


@dataclass(frozen=True)
class Window:
    """A window's batches with drawn answers, for both models (`batches`).

    `ours` are the student's prepared batches. `replaced` has the samples with a drawn answer, with their pseudo ground
    truth. `rows` has for each batch which answer rows are drawn, and the divisor of the distillation terms.
    """

    batches: list[PairedBatch]
    ours: list[Batch]
    replaced: list[Batch]
    rows: list[DrawnRows]

    def for_student(self, number: int, batch: Batch) -> Batch:
        """Append the samples that are only for the cross-entropy to a micro-batch."""
        replaced = self.replaced[number]
        return Batch.cat([batch, replaced]) if replaced.keys else batch


class DistillStep:
    """Runs batches through encoder, teacher and student; without a teacher it is CE training.

    The student's modules outside its engine run once per batch. One forward of the teacher takes `teacher_batch`
    micro-batches: if its weights are in host memory, each layer is then transferred once for all of them. `part` times
    encoder, teacher and student. With `row_weights` the states of a whole window are computed before the student runs,
    since the weights of its rows depend on each other. With `rollouts` the student draws some answers of a window
    before the teacher runs.
    """

    def __init__(
        self,
        engine: Any,
        student: AudioLM,
        teacher: TeacherSignal | None = None,
        teacher_batch: int = 1,
        part: Timed = nullcontext,
        row_weights: AudioAdvantage | None = None,
        rollouts: Rollouts | None = None,
    ):
        self.engine = engine
        self.student = student
        self.teacher = teacher
        self.teacher_batch = teacher_batch
        self.part = part
        self.row_weights = row_weights
        self.rollouts = rollouts
        self.window: Window | None = None  # the last window, if answers were drawn
        self._evaluated = False
        self._head: LMHead | None = None

    @property
    def kd_normalizer(self) -> float | None:
        """Divisor of the last window's distillation terms, if answers were drawn."""
        return None if self.window is None else self.window.rows[0].normalizer

    @contextmanager
    def teacher_head(self) -> Iterator[None]:
        """Hold the teacher's head for the micro-steps inside: those of an optimizer step or a validation pass."""
        if self.teacher is None:
            yield
            return
        with self.teacher.head() as self._head:
            yield
        self._head = None

    def train(self, batches: list[PairedBatch], normalizer: float, step: int = 0) -> list[Terms]:
        """Run forward, backward and the engine's step for each micro-batch of a window, inside `teacher_head`.

        `normalizer` divides the rows of the pseudo ground truth. Returns kd, ce and diagnostics of each micro-batch.
        The engine skips the step if a loss or a gradient is not finite.
        """
        self.window = window = None  # frees the last window
        if self.rollouts is not None:
            self.window = window = self._drawn(self.rollouts, batches, step)
        signals = self._window(batches) if window is None else self._window(window.batches, window.ours)
        terms = []
        for number, (batch, states) in enumerate(signals):
            drawn = None if window is None else window.rows[number]
            read = batch if window is None else window.for_student(number, batch)
            with self.part("student"):
                loss, kd, ce, diagnostics = self._student((read, states), normalizer, drawn)
                self.engine.backward(_with_nan_gradients(loss))
                self.engine.step()
            terms.append((kd, ce, diagnostics))
        return terms

    @torch.no_grad()
    def evaluate(self, batch: PairedBatch, normalizer: float) -> Terms:
        """Compute the same terms without a gradient, on the pseudo ground truth, inside `teacher_head`."""
        self._evaluated = True
        [signals] = self._signals([batch])
        return self._student(signals, normalizer)[1:]

    def _drawn(self, rollouts: Rollouts, batches: Sequence[PairedBatch], step: int) -> Window:
        """Draw answers to some samples of a window; every rank calls it."""
        ours = [self._prepared(batch.student) for batch in batches]
        if self._evaluated:
            # ZeRO-3 has prefetched weights for a backward pass, which does not follow a forward without gradients.
            self.engine.empty_partition_cache()
            self._evaluated = False
        with self.part("rollout"):
            drawn = rollouts.draw(step, ours)
        window = [answers.put_into(batch) for answers, batch in zip(drawn, batches, strict=True)]
        answered = [replace(w.student, audio=prepared.audio) for w, prepared in zip(window, ours, strict=True)]
        total = torch.tensor(sum(counted(b, rollouts.objective.reduction) for b in answered), dtype=torch.float64)
        total = total.to(ours[0].input_ids.device)
        if dist.is_initialized():
            dist.all_reduce(total)
        normalizer = total.item() / (world()[1] * len(batches))
        own = [torch.isin(batch.sample_of_row, d.samples) for d, batch in zip(drawn, answered, strict=True)]
        rows = [DrawnRows(mask, normalizer) for mask in own]
        # The pseudo ground truth of samples with a drawn answer is only for the cross-entropy.
        kept = None if rollouts.objective.share_of_kd < 1 else 0
        replaced = [batch.select(answers.samples[:kept]) for answers, batch in zip(drawn, ours, strict=True)]
        return Window(window, answered, replaced, rows)

    def _window(self, batches: list[PairedBatch], ours: list[Batch] | None = None) -> Iterable[Signals]:
        """Yield a window's signals, micro-batch by micro-batch; `ours` are the student's batches if prepared."""
        starts = [slice(at, at + self.teacher_batch) for at in range(0, len(batches), self.teacher_batch)]
        signals = chain.from_iterable(self._signals(batches[part], ours and ours[part]) for part in starts)
        if self.row_weights is None:
            return signals
        assert self._head is not None, "no head: call it inside teacher_head()"
        window = [(batch, states) for batch, states in signals if states is not None]
        with self.part("teacher"):
            weighed = self.row_weights.weighed(window, self._head)
        return zip((batch for batch, _ in window), weighed, strict=True)

    def _signals(self, batches: list[PairedBatch], ours: list[Batch] | None = None) -> list[Signals]:
        """Return the student's prepared batches with the teacher's states."""
        ours = ours or [self._prepared(batch.student) for batch in batches]
        if self.teacher is None:
            return [(batch, None) for batch in ours]
        with self.part("teacher"):
            return list(zip(ours, self.teacher.states(batches, ours), strict=True))

    def _prepared(self, batch: Batch) -> Batch:
        with self.part("encoder"):
            return self.student.prepare(batch)

    def _student(
        self, signals: Signals, normalizer: float, drawn: DrawnRows | None = None
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        batch, states = signals
        if states is None:
            return self.engine(batch, normalizer=normalizer)
        assert self._head is not None, "no head: call it inside teacher_head()"
        teacher = states.positive, states.negative, self._head
        *terms, diagnostics = self.engine(batch, *teacher, normalizer, states.alpha, states.kd_weights, drawn)
        if states.advantage is not None and states.kd_weights is not None:
            diagnostics = diagnostics | {"advantage": states.advantage.sum()}
        return (*terms, diagnostics)


def counted(batch: Batch, reduction: str) -> float:
    """Return a batch's weight in a mean over rows, or over samples if `reduction` is "sample"."""
    rows = batch.sample_of_row
    return float(rows.unique().numel() if reduction == "sample" else rows.numel())


def _with_nan_gradients(loss: Tensor) -> Tensor:
    """Return the loss, with NaN gradients if it is not finite: the engine checks only gradients, which may be finite.

    Computed on the device, without a synchronization.
    """
    return loss * torch.ones_like(loss).masked_fill(~loss.detach().isfinite(), float("nan"))
