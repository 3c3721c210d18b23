"""MCR-BENCH's metrics with intervals over items.

Acc_c                  share of right answers under condition c
NormAcc_c              Acc_c / Acc_neutral
tir_all_faithful       wrong -> right under the faithful text / all items
tir_all_adversarial    right -> wrong under the adversarial text / all items
tir_all_irrelevant     changed either way under the irrelevant text / all items
shift                  right -> wrong under the adversarial text / right when neutral
MRS                    0.8 NormAcc_adversarial + 0.2 NormAcc_irrelevant

`tir_all` is MCR-BENCH's text influence rate; `shift` is called `TIR_adv` in the CAAD authors' code.
"""

from collections import defaultdict
from collections.abc import Iterable
from math import sqrt

import numpy as np
from scipy.special import ndtri

from caad_ds.evaluation.scoring.metric_definitions import CONFLICTS, Metrics
from caad_ds.evaluation.scoring.resampling_units import FEWEST, numbered, per_unit, units_of

RATIOS = CONFLICTS.ratios
DEFINITIONS = {
    "shift": "right without the hint and wrong with the false one / right without it; the CAAD authors' TIR_adv",
    "tir_all_adversarial": "right without the hint and wrong with the false one / all items; MCR-BENCH's TIR",
}  # of metrics whose names are ambiguous
POOLED = "all"
RULES = ("right", "strict", "lenient")  # by which every group is scored; results of the first are not nested
DRAWS = 1000
BLOCK = 500  # draws at a time: their weights take BLOCK x units x 8 bytes
LEVEL = 0.95


def score(
    right: np.ndarray, draws: int = DRAWS, seed: int = 0, unit: np.ndarray | None = None, metrics: Metrics = CONFLICTS
) -> dict:
    """Compute every metric of one or several runs on the same items.

    Args:
        right: bool [runs, facts, items], from `metrics.answers`; for CONFLICTS whether each is right, [runs, 4, items],
            in the order of the conditions.
        unit: int [items], the resampling unit of each item (resampling_units.py); by default one per item.
        metrics: the metrics to compute.

    Returns:
        `items`, `clips` (units), `runs`, and each metric as `{value, low, high, deviation}`: the mean over runs, its
        95% interval (`interval`) from a paired bootstrap over units (the same draw for every run and condition), and
        the sample deviation over runs (None for one run). A ratio whose denominator is 0 is None.
    """
    runs, facts, items = right.shape
    if facts % len(metrics.conditions) or not items:
        raise ValueError(f"expected right [runs, {len(metrics.conditions)}, items > 0], got {list(right.shape)}")
    unit = np.arange(items) if unit is None else unit
    point, drawn = resample(right, unit, draws, seed, metrics)
    units = int(unit.max()) + 1
    found = {name: _summary(point[name], drawn[name], units, name in metrics.shares) for name in point}
    return {"items": items, "clips": units, "runs": runs, **found}


def resample(
    right: np.ndarray, unit: np.ndarray, draws: int, seed: int, metrics: Metrics = CONFLICTS
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Compute every metric of each run [runs], and of bootstrap draws of its units [draws, runs]; undefined is nan.

    `right`: bool [runs, facts, items]. A draw takes the same units for every run and condition.
    """
    counts = per_unit(metrics.count(right), unit)
    units = counts.shape[-1]
    random, parts = np.random.default_rng(seed), []
    for size in (min(BLOCK, draws - done) for done in range(0, draws, BLOCK)):
        weights = random.multinomial(units, np.full(units, 1 / units), size=size).astype(np.float64)
        parts.append(np.einsum("rku,du->drk", counts, weights, optimize=True))
    return metrics.values(counts.sum(-1)), metrics.values(np.concatenate(parts))


def metrics_of_each_run(runs: list[list[dict]]) -> dict[str, list[float | None]]:
    """Compute every metric of the pooled items by the first rule: a value per run, None if undefined."""
    right = CONFLICTS.answers(runs, items_by_subset(runs[0])[POOLED], RULES[0])
    found = CONFLICTS.values(CONFLICTS.count(right).sum(-1))
    return {name: [None if np.isnan(value) else float(value) for value in of_runs] for name, of_runs in found.items()}


def score_groups(
    runs: list[list[dict]], draws: int = DRAWS, seed: int = 0, metrics: Metrics = CONFLICTS
) -> dict[str, dict]:
    """Score each subset and, under `all`, the pooled items; by the first rule, and nested by the others' names.

    `runs`: for each run its predictions, `{id, condition, subset, clips, right, strict, lenient}` and further keys that
    `metrics` read, all over the same items.
    """
    found, units = {}, units_of(runs[0])
    known: dict[tuple[str, ...], dict] = {}  # a single subset equals the pooled items
    for name, ids in items_by_subset(runs[0]).items():
        if (scored := known.get(tuple(ids))) is None:
            unit = numbered(units, ids)
            first, *others = (_by_rule(runs, ids, rule, draws, seed, unit, metrics) for rule in RULES)
            scored = known[tuple(ids)] = {**first, **dict(zip(RULES[1:], others, strict=True))}
        found[name] = {**scored}
    return found


def judged_by(rule: str, runs: list[list[dict]]) -> list[list[dict]]:
    """Return the predictions with the verdict of `rule` instead of the first rule's."""
    return [[{**p, RULES[0]: p[rule]} for p in run] for run in runs]


def _by_rule(
    runs: list[list[dict]], ids: list[str], rule: str, draws: int, seed: int, unit: np.ndarray, metrics: Metrics
) -> dict:
    rule_metrics = metrics.by(rule == RULES[0])
    return score(rule_metrics.answers(runs, ids, rule), draws, seed, unit, rule_metrics)


def items_by_subset(predictions: Iterable[dict]) -> dict[str, list[str]]:
    """Return the sorted ids of all subsets, first as `all`, and of each subset."""
    members: dict[str, dict[str, None]] = defaultdict(dict)
    for prediction in predictions:
        members[prediction["subset"]][prediction["id"]] = None
    subsets = {name: sorted(ids) for name, ids in sorted(members.items())}
    return {POOLED: [i for ids in subsets.values() for i in ids], **subsets}


def _summary(point: np.ndarray, drawn: np.ndarray, units: int, is_share: bool) -> dict[str, float | None]:
    """Summarise `point` [runs] with the interval of `drawn` [draws, runs]."""
    value = point.mean()
    if np.isnan(value):
        return {"value": None, "low": None, "high": None, "deviation": None}
    low, high = interval(drawn.mean(-1), units, float(value) if is_share else None)
    deviation = float(point.std(ddof=1)) if len(point) > 1 else None
    return {"value": float(value), "low": low, "high": high, "deviation": deviation}


def interval(drawn: np.ndarray, units: int, share: float | None = None) -> tuple[float | None, float | None]:
    """Compute the middle 95% of draws, ignoring undefined ones.

    With too few units, or if all draws agree (e.g. every answer is right), draws show no uncertainty: then Wilson's
    interval is used if the metric is a `share` of the items, else None, None.
    """
    tail, known = (1 - LEVEL) / 2, drawn[~np.isnan(drawn)]
    if units >= FEWEST and len(known):
        low, high = (float(bound) for bound in np.quantile(known, [tail, 1 - tail]))
        if high - low > len(known) * np.finfo(float).eps * abs(high):
            return low, high
    return (None, None) if share is None else wilson(share, units)


def wilson(share: float, count: int) -> tuple[float, float]:
    """Return Wilson's 95% score interval of a share of `count` independent trials."""
    z = float(ndtri((1 + LEVEL) / 2))
    centre, reach = share + z * z / (2 * count), z * sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    return max(0.0, (centre - reach) / (1 + z * z / count)), min(1.0, (centre + reach) / (1 + z * z / count))
