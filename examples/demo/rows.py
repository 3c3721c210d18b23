"""The rows of the demo's table: which student, from which teacher, decoded how."""

from dataclasses import dataclass

ALPHA = 2.0


@dataclass(frozen=True)
class Row:
    """One system of the table.

    `overrides` change configs/demo/caad.yaml; `teacher` is "teacher" or "twin" (the one that never saw silence).
    `model` names the row whose trained student is decoded (its own by default, "teacher" for the teacher itself), and
    `decode_alpha` the strength of contrastive decoding.
    """

    name: str
    overrides: tuple[str, ...] = ()
    teacher: str = "teacher"
    model: str | None = None
    decode_alpha: float | None = None

    @property
    def trains(self) -> bool:
        """Whether this row has a student of its own."""
        return self.model is None


def caad(name: str, alpha: float, negative: str = "zero_mel", teacher: str = "teacher") -> Row:
    """A CAAD student."""
    return Row(name, (f"objective.alpha={alpha}", f"teacher.negative={negative}"), teacher)


TEACHER = Row("teacher", model="teacher")
STD_KD = Row("std_kd", ("objective.alpha=0",))
SHORT = [TEACHER, STD_KD, caad("caad", ALPHA)]
FULL = [
    TEACHER,
    Row("teacher + CD", model="teacher", decode_alpha=ALPHA),
    Row("twin", teacher="twin", model="teacher"),
    Row("ce only", ("objective.alpha=0", "objective.kd_weight=0")),
    STD_KD,
    Row("std_kd + CD", model="std_kd", decode_alpha=ALPHA),
    Row("sharpened kd", ("objective.alpha=0", f"objective.sharpen={ALPHA}")),
    caad("caad 0.5", 0.5),
    caad("caad 1", 1.0),
    caad("caad 2", 2.0),
    Row("twin std_kd", ("objective.alpha=0",), "twin"),
    caad("twin caad zero_mel", ALPHA, "zero_mel", "twin"),
    caad("twin caad silence", ALPHA, "silence", "twin"),
    caad("twin caad text_only", ALPHA, "text_only", "twin"),
    caad("twin caad noise", ALPHA, "noise", "twin"),
]
