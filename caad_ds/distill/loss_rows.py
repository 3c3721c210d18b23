"""The answer rows of a micro-batch as its loss takes them, and which of them the student has drawn."""

from dataclasses import dataclass, replace

from torch import Tensor

from caad_ds.loss.head import LMHead

OF_ANSWERS = ("rows", "token_accuracy", "student_entropy")  # diagnostics of the student on an answer, without a teacher


@dataclass(frozen=True)
class TeacherRows:
    """What the teacher says of rows: its states [N, Ht], and of each row alpha [N] and a factor of the KD term [N]."""

    positive: Tensor | None = None
    negative: Tensor | None = None
    alpha: Tensor | None = None
    kd_weights: Tensor | None = None

    def take(self, index: Tensor) -> "TeacherRows":
        """Those of some rows."""
        return TeacherRows(*(None if each is None else each[index] for each in vars(self).values()))


@dataclass(frozen=True)
class DrawnRows:
    """Which of the rows that the teacher has seen are of answers drawn by the student.

    Args:
        rows: bool [M]. Rows of the batch after these are of answers that drawn ones stand in for.
        normalizer: what the distillation terms of all M rows are divided by.
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
    taught: TeacherRows

    def take(self, index: Tensor, taught: bool = True) -> "LossRows":
        """Some of the rows, int64 [n]; not `taught`: without the teacher, which has seen others."""
        return replace(
            self,
            hidden=self.hidden[index],
            labels=self.labels[index],
            sample=None if self.sample is None else self.sample[index],
            taught=self.taught.take(index) if taught else TeacherRows(),
        )


def drawn_diagnostics(
    given: dict[str, Tensor], drawn: dict[str, Tensor], replaced: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The sums of a micro-batch with drawn answers.

    Those of the student are over the pseudo ground truth, as far as it was read: without a cross-entropy that of
    samples with a drawn answer is not. Those of the teacher are over the rows that are distilled, `kd_rows`; the
    student's entropy on drawn answers is by itself.
    """
    sums = {name: given[name] + (replaced if name in OF_ANSWERS else drawn)[name] for name in given}
    entropy = {"drawn_rows": drawn["rows"], "drawn_entropy": drawn["student_entropy"]}
    return sums | {"kd_rows": given["rows"] + drawn["rows"]} | entropy
