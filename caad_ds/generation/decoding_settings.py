"""What a user chooses in an evaluation, checked in one place for commands and notebooks, before PyTorch is imported.

Messages name the option of the command; a keyword of the function is called the same, `--top-p` being `top_p`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from caad_ds.config.objective_section import ALPHA_GATES, NEGATIVES
from caad_ds.utils.errors import UserError

DTYPES = ("float32", "bfloat16")
NO_GATE = ALPHA_GATES[0]
GATE_M = 2.0
# Beyond these a step's logits may overflow, and what is written would mean nothing.
COLDEST = 1e-3
MOST_ALPHA = 1000.0


@dataclass(frozen=True)
class Decoding:
    """How a model answers: greedily, under a contrast (`contrast_alpha`), and drawn at random (`temperature`).

    Raises:
        UserError: a value out of its range, or one that does nothing without another.
    """

    contrast_alpha: float | None = None
    negative: str = "zero_mel"
    plausibility: float | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    max_new_tokens: int = 16
    alpha_gate: str = NO_GATE
    gate_m: float = GATE_M

    def __post_init__(self) -> None:
        check_contrast(self.contrast_alpha, self.negative, self.plausibility)
        check_gate(self.contrast_alpha, self.alpha_gate, self.gate_m)
        if self.plausibility is not None and self.contrast_alpha is None:
            raise UserError("--plausibility: belongs to contrastive decoding; give --contrast-alpha as well")
        if fault := sampling_fault(self.temperature, self.top_p, self.top_k, self.seed):
            raise UserError(f"--{fault.replace('top_', 'top-', 1)}".replace("{}", "--temperature"))
        check_counts(top_k=self.top_k, max_new_tokens=self.max_new_tokens)


def check_contrast(alpha: float | None, negative: str, plausibility: float | None) -> None:
    """Raise UserError where a setting of contrastive decoding is out of its range."""
    if alpha is not None and (fault := alpha_fault(alpha)):
        raise UserError(f"--contrast-alpha {fault}")
    if plausibility is not None and not 0 < plausibility <= 1:
        raise UserError(f"--plausibility {plausibility}: give a number in (0, 1]")
    check_choice("--negative", negative, NEGATIVES)


def alpha_fault(alpha: float) -> str | None:
    """Say that an alpha of contrastive decoding is out of its range, beginning with its value; or None."""
    return None if 0 <= alpha <= MOST_ALPHA else f"{alpha}: give a number from 0 to {MOST_ALPHA:g}"


def sampling_fault(temperature: float | None, top_p: float | None, top_k: int | None, seed: int | None) -> str | None:
    """Say which setting of sampling is out of its range or does nothing, and what to do; or None.

    It begins with the setting's keyword; `{}` stands for the name of the temperature.
    """
    if temperature is not None and not COLDEST <= temperature < float("inf"):
        return f"temperature {temperature}: give a finite number of at least {COLDEST:g}; leave it out for greedy"
    if top_p is not None and not 0 < top_p <= 1:
        return f"top_p {top_p}: give a number in (0, 1]"
    given = [name for name, value in (("top_p", top_p), ("top_k", top_k), ("seed", seed)) if value is not None]
    if given and temperature is None:
        return f"{given[0]}: belongs to sampling; give {{}} as well"
    return None


def gate_fault(alpha: float | None, gate: str, m: float) -> tuple[str, object, str] | None:
    """Return the setting of a gate that is out of its range or does nothing, its value, and what to do; or None."""
    if gate not in ALPHA_GATES:
        return "alpha_gate", gate, f"give one of {', '.join(ALPHA_GATES)}"
    if gate != NO_GATE and not alpha:
        return "alpha_gate", gate, "weakens a contrast; give a contrast alpha above 0 as well"
    if not 1 < m < float("inf"):
        return "gate_m", m, "give a finite number above 1"
    if gate == NO_GATE and m != GATE_M:
        return "gate_m", m, "belongs to an alpha gate; give that as well"
    return None


def check_gate(alpha: float | None, gate: str, m: float) -> None:
    """Raise UserError where a setting of an alpha gate is out of its range, or does nothing without another."""
    if fault := gate_fault(alpha, gate, m):
        name, value, remedy = fault
        raise UserError(f"--{name.replace('_', '-')} {value}: {remedy}")


def gate_settings(gate: str, m: float) -> dict[str, str | float]:
    """Return what files and keys of results hold of a gate: nothing without one, as before there was any."""
    return {} if gate == NO_GATE else {"alpha_gate": gate, "gate_m": m}


def gate_name(gate: str, m: float) -> str:
    """Return what names of contrasts add for a gate."""
    return "" if gate == NO_GATE else f" {gate} {m:g}"


def check_counts(**counts: int | None) -> None:
    """Raise UserError where a count, by its keyword, is no whole number of at least 1; None is not given."""
    for name, count in counts.items():
        if count is not None and (not isinstance(count, int) or count < 1):
            raise UserError(f"--{name.replace('_', '-')} {count}: give a whole number of at least 1")


def check_above_zero(flag: str, value: float | None) -> None:
    """Raise UserError where a number is not finite or not above 0; None is not given."""
    if value is not None and not 0 < value < float("inf"):
        raise UserError(f"{flag} {value}: give a finite number above 0")


def check_choice(flag: str, value: str, choices: Sequence[str]) -> None:
    """Raise UserError where a value is none of the choices."""
    if value not in choices:
        raise UserError(f"{flag} {value}: give one of {', '.join(choices)}")
