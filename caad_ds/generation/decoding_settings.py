"""Decoding settings and their checks, for commands and the Python API, without importing PyTorch.

Messages name the option of the command; the keyword of the function has the same name (`--top-p`: `top_p`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from caad_ds.config.objective_section import ALPHA_GATES, NEGATIVES
from caad_ds.utils.errors import UserError

DTYPES = ("float32", "bfloat16")
NO_GATE = ALPHA_GATES[0]
GATE_M = 2.0
# Beyond these a step's logits may overflow, and the answers would be meaningless.
MIN_TEMPERATURE = 1e-3
MAX_ALPHA = 1000.0


@dataclass(frozen=True)
class Decoding:
    """Decoding settings: greedy by default; contrastive with `contrast_alpha`, sampled with `temperature`.

    Raises:
        UserError: a value is out of range, or has no effect without another one.
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
    """Raise UserError if a setting of contrastive decoding is out of range."""
    if alpha is not None and (fault := alpha_fault(alpha)):
        raise UserError(f"--contrast-alpha {fault}")
    if plausibility is not None and not 0 < plausibility <= 1:
        raise UserError(f"--plausibility {plausibility}: give a number in (0, 1]")
    check_choice("--negative", negative, NEGATIVES)


def alpha_fault(alpha: float) -> str | None:
    """Return a message, beginning with the value, if an alpha of contrastive decoding is out of range; else None."""
    return None if 0 <= alpha <= MAX_ALPHA else f"{alpha}: give a number from 0 to {MAX_ALPHA:g}"


def sampling_fault(temperature: float | None, top_p: float | None, top_k: int | None, seed: int | None) -> str | None:
    """Return a message about the first sampling setting that is out of range or has no effect; else None.

    It begins with the setting's keyword; `{}` in it is to be replaced by the name of the temperature.
    """
    if temperature is not None and not MIN_TEMPERATURE <= temperature < float("inf"):
        return (
            f"temperature {temperature}: give a finite number of at least {MIN_TEMPERATURE:g}; leave it out for greedy"
        )
    if top_p is not None and not 0 < top_p <= 1:
        return f"top_p {top_p}: give a number in (0, 1]"
    given = [name for name, value in (("top_p", top_p), ("top_k", top_k), ("seed", seed)) if value is not None]
    if given and temperature is None:
        return f"{given[0]}: belongs to sampling; give {{}} as well"
    return None


def gate_fault(alpha: float | None, gate: str, m: float) -> tuple[str, object, str] | None:
    """Return the gate setting that is out of range or has no effect, its value, and the remedy; or None."""
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
    """Raise UserError if a setting of the alpha gate is out of range, or has no effect without another one."""
    if fault := gate_fault(alpha, gate, m):
        name, value, remedy = fault
        raise UserError(f"--{name.replace('_', '-')} {value}: {remedy}")


def gate_settings(gate: str, m: float) -> dict[str, str | float]:
    """Return the gate's entries in result files and keys; none without a gate, so older results compare equal."""
    return {} if gate == NO_GATE else {"alpha_gate": gate, "gate_m": m}


def gate_name(gate: str, m: float) -> str:
    """Return the suffix of a contrast's name for a gate, "" without one."""
    return "" if gate == NO_GATE else f" {gate} {m:g}"


def check_counts(**counts: int | None) -> None:
    """Raise UserError unless each count, by its keyword, is a whole number >= 1 or None."""
    for name, count in counts.items():
        if count is not None and (not isinstance(count, int) or count < 1):
            raise UserError(f"--{name.replace('_', '-')} {count}: give a whole number of at least 1")


def check_above_zero(flag: str, value: float | None) -> None:
    """Raise UserError unless a number is finite and above 0, or None."""
    if value is not None and not 0 < value < float("inf"):
        raise UserError(f"{flag} {value}: give a finite number above 0")


def check_choice(flag: str, value: str, choices: Sequence[str]) -> None:
    """Raise UserError if a value is none of the choices."""
    if value not in choices:
        raise UserError(f"{flag} {value}: give one of {', '.join(choices)}")
