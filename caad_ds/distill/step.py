"""A window of micro-steps of Stage 2: encoder once a batch, teacher once a window or a batch, student with its loss."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from caad_ds.data.batch import Batch, PairedBatch
from caad_ds.distill.loss_rows import DrawnRows
from caad_ds.distill.rollouts import Rollouts
from caad_ds.distill.row_weights import AudioAdvantage
from caad_ds.distill.signal import TeacherSignal, TeacherStates
from caad_ds.distill.student_objective import Timed
from caad_ds.loss.head import LMHead
from caad_ds.models.audio_lm import AudioLM
from caad_ds.utils.ranks import world

Terms = tuple[Tensor, Tensor, dict[str, Tensor]]
Signals = tuple[Batch, TeacherStates | None]  # the student's batch, prepared, and the teacher's states


@dataclass(frozen=True)
class Window:
    """A window's batches with the answers that the student has drawn, as both models read them (`batches`).

    `ours` are the student's, prepared. Of samples with a drawn answer `replaced` has the batches with the pseudo ground
    truth; `rows` says of each batch which answer rows are drawn, and what the distillation terms are divided by.
    """

    batches: list[PairedBatch]
    ours: list[Batch]
    replaced: list[Batch]
    rows: list[DrawnRows]

    def for_student(self, number: int, batch: Batch) -> Batch:
        """A micro-batch with what the cross-entropy alone is about behind it."""
        replaced = self.replaced[number]
        return Batch.cat([batch, replaced]) if replaced.keys else batch


class DistillStep:
    """Runs batches through encoder, teacher and student; without a teacher it is CE training.

    What the student computes outside its engine runs once a batch. One forward of the teacher takes `teacher_batch`
    micro-batches: where its weights come from the host, each layer then crosses the bus once for all of them. `part`
    wraps what the parts encoder, teacher and student take. With `row_weights` the states of a whole window are there
    before the student begins, since the weights of its rows depend on each other. With `rollouts` some of the answers
    of a window are the student's own, drawn before the teacher runs.
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
        self.window: Window | None = None  # the last one in which answers were drawn
        self._evaluated = False
        self._head: LMHead | None = None

    @property
    def kd_normalizer(self) -> float | None:
        """What the last window's distillation terms are divided by, where answers were drawn."""
        return None if self.window is None else self.window.rows[0].normalizer

    @contextmanager
    def teacher_head(self) -> Iterator[None]:
        """Holds the teacher's head for the micro-steps inside: an optimizer step's, or a validation pass's."""
        if self.teacher is None:
            yield
            return
        with self.teacher.head() as self._head:
            yield
        self._head = None

    def train(self, batches: list[PairedBatch], normalizer: float, step: int = 0) -> list[Terms]:
        """Forward, backward and the engine's step for each micro-batch of a window, inside `teacher_head`.

        `normalizer` is what the rows of the pseudo ground truth are divided by. Returns kd, ce and the diagnostics of
        each. The engine skips the step if a loss or a gradient is not finite.
        """
        self.window = window = None  # the memory of the last one
        if self.rollouts is not None:
            self.window = window = self._drawn(self.rollouts, batches, step)
        signals = self._window(batches) if window is None else self._window(window.batches, window.ours)
        terms = []
        for number, (batch, states) in enumerate(signals):
            drawn = None if window is None else window.rows[number]
            read = batch if window is None else window.for_student(number, batch)
            with self.part("student"):
                loss, kd, ce, diagnostics = self._student((read, states), normalizer, drawn)
                self.engine.backward(_spoilt(loss))
                self.engine.step()
            terms.append((kd, ce, diagnostics))
        return terms

    @torch.no_grad()
    def evaluate(self, batch: PairedBatch, normalizer: float) -> Terms:
        """The same terms without a gradient, on the pseudo ground truth, inside `teacher_head`."""
        self._evaluated = True
        [signals] = self._signals([batch])
        return self._student(signals, normalizer)[1:]

    def _drawn(self, rollouts: Rollouts, batches: Sequence[PairedBatch], step: int) -> Window:
        """A window in which the student has answered some samples itself; every rank calls it."""
        ours = [self._prepared(batch.student) for batch in batches]
        if self._evaluated:
            # ZeRO-3 has begun to fetch weights for a backward pass that a forward without gradients does not make.
            self.engine.empty_partition_cache()
            self._evaluated = False
        with self.part("rollout"):
            drawn = rollouts.draw(step, ours)
        window = [each.put_into(batch) for each, batch in zip(drawn, batches, strict=True)]
        answered = [replace(w.student, audio=prepared.audio) for w, prepared in zip(window, ours, strict=True)]
        total = torch.tensor(sum(counted(b, rollouts.objective.reduction) for b in answered), dtype=torch.float64)
        total = total.to(ours[0].input_ids.device)
        if dist.is_initialized():
            dist.all_reduce(total)
        normalizer = total.item() / (world()[1] * len(batches))
        own = [torch.isin(batch.sample_of_row, d.samples) for d, batch in zip(drawn, answered, strict=True)]
        rows = [DrawnRows(each, normalizer) for each in own]
        # The pseudo ground truth of what was drawn is there for the cross-entropy alone.
        kept = None if rollouts.objective.share_of_kd < 1 else 0
        replaced = [batch.select(each.samples[:kept]) for each, batch in zip(drawn, ours, strict=True)]
        return Window(window, answered, replaced, rows)

    def _window(self, batches: list[PairedBatch], ours: list[Batch] | None = None) -> Iterable[Signals]:
        """What the student learns from in a window, one micro-batch after the other; `ours` if it is prepared."""
        starts = [slice(at, at + self.teacher_batch) for at in range(0, len(batches), self.teacher_batch)]
        found = chain.from_iterable(self._signals(batches[part], ours and ours[part]) for part in starts)
        if self.row_weights is None:
            return found
        assert self._head is not None, "no head: call it inside teacher_head()"
        signals = [(batch, states) for batch, states in found if states is not None]
        with self.part("teacher"):
            weighed = self.row_weights.weighed(signals, self._head)
        return zip((batch for batch, _ in signals), weighed, strict=True)

    def _signals(self, batches: list[PairedBatch], ours: list[Batch] | None = None) -> list[Signals]:
        """Each of the student's batches, prepared, with the teacher's states."""
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
    """How much a batch counts in a mean over rows, or over samples where `reduction` is "sample"."""
    rows = batch.sample_of_row
    return float(rows.unique().numel() if reduction == "sample" else rows.numel())


def _spoilt(loss: Tensor) -> Tensor:
    """The loss, with gradients of NaN if it is not finite: its own may be finite, and the engine looks at nothing else.

    Decided on the device, which nothing waits for.
    """
    return loss * torch.ones_like(loss).masked_fill(~loss.detach().isfinite(), float("nan"))
