"""What a user chooses in an evaluation, checked in one place for commands and notebooks, before PyTorch is imported.

Messages name the option of the command; a keyword of the function is called the same, `--top-p` being `top_p`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from caad_ds.config.schema import NEGATIVES
from caad_ds.utils.errors import UserError

DTYPES = ("float32", "bfloat16")


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

    def __post_init__(self) -> None:
        check_contrast(self.contrast_alpha, self.negative, self.plausibility)
        if self.plausibility is not None and self.contrast_alpha is None:
            raise UserError("--plausibility: belongs to contrastive decoding; give --contrast-alpha as well")
        if self.temperature is not None and not 0 < self.temperature < float("inf"):
            raise UserError(f"--temperature {self.temperature}: give a finite number above 0; leave it out for greedy")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"--top-p {self.top_p}: give a number in (0, 1]")
        given = [flag for flag in ("top_p", "top_k", "seed") if getattr(self, flag) is not None]
        if given and self.temperature is None:
            raise UserError(f"--{given[0].replace('_', '-')}: belongs to sampling; give --temperature as well")
        check_counts(top_k=self.top_k, max_new_tokens=self.max_new_tokens)


def check_contrast(alpha: float | None, negative: str, plausibility: float | None) -> None:
    """Raise UserError where a setting of contrastive decoding is out of its range."""
    if alpha is not None and not 0 <= alpha < float("inf"):
        raise UserError(f"--contrast-alpha {alpha}: give a finite number of at least 0")
    if plausibility is not None and not 0 < plausibility <= 1:
        raise UserError(f"--plausibility {plausibility}: give a number in (0, 1]")
    check_choice("--negative", negative, NEGATIVES)


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
