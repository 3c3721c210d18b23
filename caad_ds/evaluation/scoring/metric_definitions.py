"""Metrics as ratios of weighted counts over items.

Bootstrap and exchange test of such a ratio need only the counts, so they work for every benchmark with metrics of this
form (bootstrap_scores.py, significance.py).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from caad_ds.evaluation.benchmarks.benchmark import CONDITIONS, HINTS

Weights = Mapping[str, int]  # by outcome


@dataclass(frozen=True)
class Metrics:
    """The facts of a prediction, the counted outcomes of an item, and each metric's numerator and denominator.

    An item has a prediction under each of `conditions`. `count` maps the `facts` of all of them, bool [runs, conditions
    * facts, items], to outcomes, bool [runs, outcomes, items]. `plain` are the metrics by matching rules other than the
    first one, if they differ.
    """

    conditions: Sequence[str | None]
    facts: Callable[[dict, str], Sequence[bool]]
    outcomes: Sequence[str]
    count: Callable[[np.ndarray], np.ndarray]
    ratios: Mapping[str, tuple[Weights, Weights]]
    plain: "Metrics | None" = None

    @property
    def shares(self) -> list[str]:
        """The metrics that are shares of all items."""
        return [name for name, (_, whole) in self.ratios.items() if whole == {"all": 1}]

    def by(self, first: bool) -> "Metrics":
        """Return the metrics by the first matching rule, or by another."""
        return self if first or self.plain is None else self.plain

    def answers(self, runs: list[list[dict]], ids: list[str], rule: str) -> np.ndarray:
        """Return the facts of each run by a rule, bool [runs, conditions * facts, items], items ordered as `ids`."""
        tables = [{(p["id"], p["condition"]): self.facts(p, rule) for p in run} for run in runs]
        rows = [[[table[i, c] for i in ids] for c in self.conditions] for table in tables]
        found = np.array(rows, dtype=bool)  # [runs, conditions, items, facts]
        return np.moveaxis(found, -1, 2).reshape(len(runs), -1, len(ids))

    def sides(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return numerators and denominators, [..., metrics] in the order of `ratios`, from counts [..., outcomes]."""
        part, whole = (
            np.array([[sides[k].get(name, 0) for name in self.outcomes] for sides in self.ratios.values()], np.float64)
            for k in range(2)
        )
        return counts @ part.T, counts @ whole.T

    def values(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """Return the metrics [...] from counts of outcomes [..., outcomes]; undefined ratios are nan."""
        part, whole = self.sides(counts)
        values = part / np.where(whole > 0, whole, np.nan)
        return dict(zip(self.ratios, np.moveaxis(values, -1, 0), strict=True))


def _right(prediction: dict, rule: str) -> tuple[bool]:
    return (prediction[rule],)


def _flips(right: np.ndarray) -> np.ndarray:
    neutral, faithful, adversarial, irrelevant = (right[:, k] for k in range(4))
    flips = (~neutral & faithful, neutral & ~adversarial, neutral ^ irrelevant)
    return np.stack([neutral, faithful, adversarial, irrelevant, *flips, np.ones_like(neutral)], axis=1)


CONFLICTS_COUNTED = (*CONDITIONS, "gained", "lost", "changed", "all")
CONFLICTS = Metrics(
    CONDITIONS,
    _right,
    CONFLICTS_COUNTED,
    _flips,
    {
        **{f"accuracy_{c}": ({c: 1}, {"all": 1}) for c in CONDITIONS},
        **{f"norm_accuracy_{c}": ({c: 1}, {"neutral": 1}) for c in HINTS},
        **{f"tir_all_{c}": ({flip: 1}, {"all": 1}) for c, flip in zip(HINTS, CONFLICTS_COUNTED[4:7], strict=True)},
        "shift": ({"lost": 1}, {"neutral": 1}),
        "mrs": ({"adversarial": 4, "irrelevant": 1}, {"neutral": 5}),
    },
)


def metrics_of(conditions: int) -> Metrics:
    """Return the metrics of items under one condition, or under all of CONDITIONS."""
    return ACCURACY if conditions == 1 else CONFLICTS


def _with_all(right: np.ndarray) -> np.ndarray:
    return np.concatenate([right, np.ones_like(right)], axis=1)


ACCURACY = Metrics((None,), _right, ("right", "all"), _with_all, {"accuracy": ({"right": 1}, {"all": 1})})


def _yes_no_facts(prediction: dict, rule: str) -> tuple[bool, bool, bool]:
    """Return whether it is right, says yes, and should say no."""
    return prediction[rule], prediction["said"] == "yes", prediction["gt"] == "no"


def _of_no(facts: np.ndarray) -> np.ndarray:
    """Count outcomes; an answer without yes counts as "no", but is right only if it does say no."""
    right, yes, is_no = (facts[:, k] for k in range(3))
    return np.stack([right, yes, ~yes, is_no, right & is_no, np.ones_like(right)], axis=1)


YES_NO = Metrics(
    (None,),
    _yes_no_facts,
    ("right", "yes", "not_yes", "no_label", "no_right", "all"),
    _of_no,
    {
        "accuracy": ({"right": 1}, {"all": 1}),
        "yes_share": ({"yes": 1}, {"all": 1}),
        "precision_no": ({"no_right": 1}, {"not_yes": 1}),
        "recall_no": ({"no_right": 1}, {"no_label": 1}),
        "f1_no": ({"no_right": 2}, {"not_yes": 1, "no_label": 1}),
    },
    plain=ACCURACY,
)
