"""The answer rows of a micro-batch for the loss, and which of them the student has drawn."""

from dataclasses import dataclass, replace

from torch import Tensor

from caad_ds.loss.head import LMHead

OF_ANSWERS = ("rows", "token_accuracy", "student_entropy")  # diagnostics of the student on an answer, without a teacher


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


def drawn_diagnostics(
    given: dict[str, Tensor], drawn: dict[str, Tensor], replaced: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Join the diagnostic sums of a micro-batch with drawn answers.

    The student's are over the pseudo ground truth that was read: without a cross-entropy, that of samples with a drawn
    answer is not. The teacher's are over the distilled rows, `kd_rows`. The student's entropy on drawn answers is
    separate.
    """
    sums = {name: given[name] + (replaced if name in OF_ANSWERS else drawn)[name] for name in given}
    entropy = {"drawn_rows": drawn["rows"], "drawn_entropy": drawn["student_entropy"]}
    return sums | {"kd_rows": given["rows"] + drawn["rows"]} | entropy
