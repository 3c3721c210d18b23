"""Settings of `explain`: the answer and the contrast; checked without importing PyTorch."""

from dataclasses import asdict, dataclass
from pathlib import Path

from caad_ds.generation.decoding_settings import (
    GATE_M,
    NO_GATE,
    check_above_zero,
    check_choice,
    check_contrast,
    check_gate,
    gate_settings,
)
from caad_ds.utils.errors import UserError

ANSWERS = ("own", "contrast", "gt")


@dataclass(frozen=True)
class AnswerSettings:
    """The answer (one of ANSWERS), the contrast of the target, and the temperature of all distributions.

    Raises:
        UserError: a value is out of range, or `instructions` (the file of the right answers' statements) without `gt`.
    """

    answer: str = "own"
    contrast_alpha: float = 1.0
    negative: str = "zero_mel"
    plausibility: float | None = None
    temperature: float = 1.0
    instructions: Path | None = None
    alpha_gate: str = NO_GATE
    gate_m: float = GATE_M

    def __post_init__(self) -> None:
        check_contrast(self.contrast_alpha, self.negative, self.plausibility)
        check_gate(self.contrast_alpha, self.alpha_gate, self.gate_m)
        check_above_zero("--temperature", self.temperature)
        check_choice("--answer", self.answer, ANSWERS)
        if self.instructions and self.answer != "gt":
            raise UserError("--instructions: has the right answers' statements; give --answer gt as well")

    def shown(self) -> dict:
        """Return the settings that are written to an item's files."""
        hidden = ("instructions", "alpha_gate", "gate_m")
        shown = {name: value for name, value in asdict(self).items() if name not in hidden}
        return shown | gate_settings(self.alpha_gate, self.gate_m)

    @property
    def gate(self) -> tuple[str, float]:
        """Return the contrast's gate and its m."""
        return self.alpha_gate, self.gate_m
