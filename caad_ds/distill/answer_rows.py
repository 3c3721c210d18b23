"""The answer rows of a micro-batch for the loss, and which of them the student has drawn."""

from dataclasses import dataclass, replace

from torch import Tensor

from caad_ds.loss.head import LMHead


@dataclass(frozen=True)
class TeacherRows:
    """The teacher's states [N, Ht], and for each row alpha [N] and a factor of the KD term [N]."""

    positive: Tensor | None = None
    negative: Tensor | None = None
    alpha: Tensor | None = None
    kd_weights: Tensor | None = None

    def take(self, index: Tensor) -> "TeacherRows":
        """Select some rows."""
        return TeacherRows(*(None if each is None else each[index] for each in vars(self).values()))


@dataclass(frozen=True)
class DrawnRows:
    """Which of the teacher's rows are of answers drawn by the student.

    Args:
        rows: bool [M]. Rows of the batch after these are of the answers that the drawn ones replace.
        normalizer: divisor of the distillation terms of all M rows.
    """

    rows: Tensor
    normalizer: float


@dataclass(frozen=True)
class LossRows:
    """The student's states [N, Hs] with their labels [N], sample numbers [N] or None, heads, and the teacher's part."""

    hidden: Tensor
    head: LMHead
    labels: Tensor
    sample: Tensor | None
    teacher_head: LMHead | None
    vocabulary: int | None
    teacher: TeacherRows

    def take(self, index: Tensor, with_teacher: bool = True) -> "LossRows":
        """Select rows, int64 [n], with or without the teacher, whose rows may be others."""
        return replace(
            self,
            hidden=self.hidden[index],
            labels=self.labels[index],
            sample=None if self.sample is None else self.sample[index],
            teacher=self.teacher.take(index) if with_teacher else TeacherRows(),
        )
