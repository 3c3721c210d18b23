"""Inputs and outputs that all implementations of the loss share."""

from dataclasses import dataclass, field, fields
from numbers import Real
from typing import Any

from torch import Tensor

from caad_ds.loss.alpha_gate import ALPHA_GATES, is_gate_m
from caad_ds.loss.divergence import DIVERGENCES, Divergence, find_divergence

# The logit of an impossible token: its probability is 0 and, unlike with -inf, 0 times its logarithm is 0. So an
# infinity or a NaN among the inputs makes every sum over its row a NaN.
NEVER = -1e30
LARGEST = 1e6


@dataclass(frozen=True)
class Objective:
    """The scalars of L = kd_weight * L_CD + (1 - kd_weight) * L_GT (the paper's lambda, tau, alpha).

    `divergence` is that of L_CD, and `mix` the target's share in the mixture of those that have one. With `alpha_gate`
    each row has an alpha of at most `alpha` (alpha_gate.py), unless it is given with the rows.
    """

    alpha: float
    temperature: float
    kd_weight: float
    plausibility: float | None = None
    sharpen: float = 0.0
    divergence: Divergence = DIVERGENCES["forward_kl"]
    mix: float = 0.5
    alpha_gate: str = "none"
    gate_m: float = 2.0

    def __post_init__(self) -> None:
        for name in ("alpha", "temperature", "kd_weight", "plausibility", "sharpen", "mix"):
            value = getattr(self, name)
            if not isinstance(value, Real) and not (name == "plausibility" and value is None):
                raise ValueError(f"{name} is {value!r}, expected a number")
        self._require("alpha", 0 <= self.alpha <= LARGEST, f"a number in [0, {LARGEST:g}]")
        temperatures = 1 / LARGEST <= self.temperature <= LARGEST
        self._require("temperature", temperatures, f"a number > 0, in [{1 / LARGEST:g}, {LARGEST:g}]")
        self._require("kd_weight", 0 <= self.kd_weight <= 1, "a number in [0, 1]")
        self._require("plausibility", self.plausibility is None or 0 < self.plausibility <= 1, "None or in (0, 1]")
        self._require("sharpen", 0 <= self.sharpen <= LARGEST, f"a number in [0, {LARGEST:g}]")
        self._require("mix", 0 < self.mix < 1, "a number between 0 and 1")
        gates = self.alpha_gate in ALPHA_GATES
        self._require("alpha_gate", gates, f"one of {', '.join(ALPHA_GATES)}")
        self._require("gate_m", is_gate_m(self.gate_m), "a finite number > 1")
        self._require("alpha_gate", not self.gated or self.alpha > 0, "none with alpha 0, which is without contrast")
        finite = self.plausibility is None or not self.divergence.infinite_at_zero
        self._require("plausibility", finite, f"None with {self.divergence.name}, which would be infinite")

    @classmethod
    def of(cls, settings: Any) -> "Objective":
        """Build it from a run's `objective` section, which has attributes of these names; ValueError as in the loss."""
        values = {each.name: getattr(settings, each.name) for each in fields(cls)}
        return cls(**values | {"divergence": find_divergence(settings.divergence)})

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ValueError(f"{name} is {getattr(self, name)}, expected {expected}")

    @property
    def gated(self) -> bool:
        """Whether each row's alpha is computed from z_neg."""
        return self.alpha_gate != "none"

    @property
    def uses_teacher(self) -> bool:
        """Whether the distillation term counts."""
        return self.kd_weight > 0

    @property
    def uses_labels(self) -> bool:
        """Whether the cross-entropy term counts."""
        return self.kd_weight < 1

    def needs_z_pos(self, contrasted: bool, softcap: float | None) -> bool:
        """Return whether z_pos must be computed besides z_c; otherwise one product of the contrasted hidden states is
        exact (method.md, identity 1)."""
        return self.plausibility is not None or (contrasted and softcap is not None)


@dataclass(frozen=True)
class Rows:
    """N answer positions: hidden states `student` [N, Hs], the teacher's `positive` and `negative` [N, Ht],
    `labels` int64 [N], `valid` bool [N] (not ignored) and `weight` [N], each row's share of the loss (0 if ignored).
    `kd_share` [N] is its share of the distillation term, the same tensor if that has no row weights.

    `positive` is None without distillation, `negative` without contrast. `alpha` [N] is None if all rows have the
    objective's, and until a gate has computed it.
    """

    student: Tensor
    positive: Tensor | None
    negative: Tensor | None
    labels: Tensor
    valid: Tensor
    weight: Tensor
    kd_share: Tensor
    alpha: Tensor | None = None

    def take(self, index: slice | Tensor) -> "Rows":
        """Select rows: a view for a slice, a copy for a mask."""
        positive = None if self.positive is None else self.positive[index]
        negative = None if self.negative is None else self.negative[index]
        alpha = None if self.alpha is None else self.alpha[index]
        kd_share = weight = self.weight[index]
        if self.kd_share is not self.weight:
            kd_share = self.kd_share[index]
        rows = self.student[index], positive, negative, self.labels[index], self.valid[index], weight, kd_share
        return Rows(*rows, alpha)


@dataclass(frozen=True, eq=False)
class LossOutput:
    """`loss` is differentiable; `kd` and `ce` are its two terms, detached, under the same normalizer.

    A term whose weight is 0 is not computed and is 0. `diagnostics` are sums over valid rows, which can be added over
    ranks and micro-steps; divide by `rows`.
    """

    loss: Tensor
    kd: Tensor
    ce: Tensor
    diagnostics: dict[str, Tensor] = field(default_factory=dict)


def computed(terms: dict[str, Tensor], objective: Objective, distilled: bool, z_pos: bool) -> dict[str, Tensor]:
    """Select the terms that a call computes: without labels no ce, without a teacher none of its terms, and the
    contrast's shift only if z_pos is computed separately."""
    unused = set() if objective.uses_labels else {"ce"}
    unused |= set() if distilled else {"kd", "agreement", "teacher_entropy"}
    unused |= set() if z_pos else {"contrast_shift"}
    return {name: values for name, values in terms.items() if name not in unused}


def alpha_terms(rows: Rows) -> dict[str, Tensor]:
    """Return the diagnostic `alpha` per row, 0 in ignored ones, if rows have their own."""
    return {} if rows.alpha is None else {"alpha": rows.alpha.masked_fill(~rows.valid, 0)}
