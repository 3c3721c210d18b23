"""The rows of the demo's table: student, teacher and decoding of each."""

from dataclasses import dataclass

ALPHA = 2.0  # strength in make demo-full's controls and in contrastive decoding


@dataclass(frozen=True)
class Row:
    """One system of the table.

    Args:
        overrides: changes to configs/demo/caad.yaml.
        teacher: "teacher" or "twin" (trained without silence).
        negative: input that replaces the audio in the contrastive pass.
        gate_m: constant of an adaptive contrast, also among the overrides.
        model: row whose student is decoded: by default this one, "teacher" for the teacher itself.
        decode_alpha: strength of contrastive decoding.
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
        """Return whether this row trains a student."""
        return self.model is None

    @property
    def draws(self) -> bool:
        """Return whether the student generates answers during training (on-policy), which no teacher cache holds."""
        return any(override.startswith("objective.on_policy") for override in self.overrides)


def caad(name: str, alpha: float, negative: str = "zero_mel", teacher: str = "teacher") -> Row:
    """Return the row of a CAAD student."""
    return Row(name, (f"objective.alpha={alpha}",), teacher, negative)


TEACHER = Row("teacher", model="teacher")
STD_KD = Row("std_kd", ("objective.alpha=0",))
SHORT = [TEACHER, STD_KD, Row("caad")]  # with the strength of configs/demo/caad.yaml
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
    """Return the row of a student whose contrast is scaled by the text-certainty gate, up to `ALPHA`."""
    gate = (f"objective.alpha={ALPHA}", "objective.alpha_gate=text_certainty", f"objective.gate_m={gate_m}")
    return Row(name, gate, gate_m=gate_m)


def adaptive_rows(gate_m: float) -> list[Row]:
    """Return the rows of the experiment on the adaptive contrast: six students per pair of seeds."""
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
    """Return the rows compared on the validation voices to choose the gate's constant."""
    fixed = [STD_KD, caad("caad 1.5", 1.5), caad("caad 2", 2.0)]
    return [*fixed, *(adaptive(f"adaptive 2 m {m:g}", m) for m in (1.5, 2.0, 3.0))]


def on_policy(share: float, divergence: str) -> Row:
    """Return the row of a CAAD student that samples a share of the answers; the demo's have at most seven tokens."""
    name = f"on-policy {share:g}, {divergence.removesuffix('_kl')} KL"
    drawn = {"share": share, "divergence": divergence, "max_new_tokens": 12}
    return Row(name, tuple(f"objective.on_policy.{key}={value}" for key, value in drawn.items()))


def objective_rows() -> list[Row]:
    """Return the rows with other terms of the objective, each added to CAAD as in configs/demo/caad.yaml."""
    return [
        TEACHER,
        STD_KD,
        Row("caad 1.5"),
        *(on_policy(share, divergence) for share in (0.5, 1.0) for divergence in ("reverse_kl", "forward_kl")),
        Row("audio_advantage", ("objective.row_weight=audio_advantage",)),
        Row("hidden 0.3", ("objective.hidden_weight=0.3",)),
    ]
