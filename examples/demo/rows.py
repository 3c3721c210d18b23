"""The rows of the demo's table: which student, from which teacher, decoded how."""

from dataclasses import dataclass

ALPHA = 2.0  # of make demo-full's controls, and of contrastive decoding


@dataclass(frozen=True)
class Row:
    """One system of the table.

    `overrides` change configs/demo/caad.yaml; `teacher` is "teacher" or "twin" (the one that never saw silence),
    `negative` the input of its second path.
    `gate_m` is the constant of an adaptive contrast, which is among the overrides too.
    `model` names the row whose trained student is decoded (its own by default, "teacher" for the teacher itself), and
    `decode_alpha` the strength of contrastive decoding.
    """

    name: str
    overrides: tuple[str, ...] = ()
    teacher: str = "teacher"
    negative: str = "zero_mel"
    model: str | None = None
    decode_alpha: float | None = None
    gate_m: float | None = None

    @property
    def trains(self) -> bool:
        """Whether this row has a student of its own."""
        return self.model is None

    @property
    def draws(self) -> bool:
        """Whether the student answers itself while it trains, so that no cache holds what the teacher says."""
        return any(override.startswith("objective.on_policy") for override in self.overrides)


def caad(name: str, alpha: float, negative: str = "zero_mel", teacher: str = "teacher") -> Row:
    """A CAAD student."""
    return Row(name, (f"objective.alpha={alpha}",), teacher, negative)


TEACHER = Row("teacher", model="teacher")
STD_KD = Row("std_kd", ("objective.alpha=0",))
SHORT = [TEACHER, STD_KD, Row("caad")]  # of the strength that configs/demo/caad.yaml has
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
    caad("caad 1.5", 1.5),
    caad("caad 2", 2.0),
    Row("twin std_kd", ("objective.alpha=0",), "twin"),
    caad("twin caad zero_mel", ALPHA, "zero_mel", "twin"),
    caad("twin caad silence", ALPHA, "silence", "twin"),
    caad("twin caad text_only", ALPHA, "text_only", "twin"),
    caad("twin caad noise", ALPHA, "noise", "twin"),
]


def adaptive(name: str, gate_m: float) -> Row:
    """A student of the contrast that the text-certainty gate scales, at most of strength `ALPHA`."""
    gate = (f"objective.alpha={ALPHA}", "objective.alpha_gate=text_certainty", f"objective.gate_m={gate_m}")
    return Row(name, gate, gate_m=gate_m)


def adaptive_rows(gate_m: float) -> list[Row]:
    """The rows of the adaptive contrast's experiment: six students of each pair of seeds."""
    return [
        TEACHER,
        Row("teacher + CD", model="teacher", decode_alpha=ALPHA),
        Row("twin", teacher="twin", model="teacher"),
        STD_KD,
        Row("std_kd + CD", model="std_kd", decode_alpha=ALPHA),
        caad("caad 1", 1.0),
        caad("caad 1.5", 1.5),
        caad("caad 2", 2.0),
        adaptive("adaptive 2", gate_m),
        Row("twin std_kd", ("objective.alpha=0",), "twin"),
    ]


def chosen_rows() -> list[Row]:
    """What is compared on the validation voices to choose the gate's constant."""
    fixed = [STD_KD, caad("caad 1.5", 1.5), caad("caad 2", 2.0)]
    return [*fixed, *(adaptive(f"adaptive 2 m {m:g}", m) for m in (1.5, 2.0, 3.0))]


def on_policy(share: float, divergence: str) -> Row:
    """A CAAD student that draws a share of the answers itself; the demo's have at most seven tokens."""
    name = f"on-policy {share:g}, {divergence.removesuffix('_kl')} KL"
    drawn = {"share": share, "divergence": divergence, "max_new_tokens": 12}
    return Row(name, tuple(f"objective.on_policy.{key}={value}" for key, value in drawn.items()))


def objective_rows() -> list[Row]:
    """What else an objective can be made of, each beside CAAD and with its alpha, that of configs/demo/caad.yaml."""
    return [
        TEACHER,
        STD_KD,
        Row("caad 1.5"),
        *(on_policy(share, divergence) for share in (0.5, 1.0) for divergence in ("reverse_kl", "forward_kl")),
        Row("audio_advantage", ("objective.row_weight=audio_advantage",)),
        Row("hidden 0.3", ("objective.hidden_weight=0.3",)),
    ]
