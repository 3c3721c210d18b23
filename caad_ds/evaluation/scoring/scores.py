"""MCR-BENCH's metrics with intervals over items.

Acc_c                  share of right answers under condition c
NormAcc_c              Acc_c / Acc_neutral
tir_all_faithful       wrong -> right under the faithful text / all items
tir_all_adversarial    right -> wrong under the adversarial text / all items
tir_all_irrelevant     changed either way under the irrelevant text / all items
shift                  right -> wrong under the adversarial text / right when neutral
MRS                    0.8 NormAcc_adversarial + 0.2 NormAcc_irrelevant

`tir_all` is MCR-BENCH's text influence rate; what the CAAD authors' code calls `TIR_adv` is `shift`.
"""

from collections import defaultdict
from collections.abc import Iterable
from math import sqrt

import numpy as np
from scipy.stats import norm

from caad_ds.evaluation.benchmarks.mcr_bench import CONDITIONS, HINTS
from caad_ds.evaluation.scoring.resampling_units import FEWEST, numbered, per_unit, units_of

# What is counted of an item; every metric is a ratio of weighted counts: numerator, denominator.
OUTCOMES = (*CONDITIONS, "gained", "lost", "changed", "all")
RATIOS: dict[str, tuple[dict[str, int], dict[str, int]]] = {
    **{f"accuracy_{c}": ({c: 1}, {"all": 1}) for c in CONDITIONS},
    **{f"norm_accuracy_{c}": ({c: 1}, {"neutral": 1}) for c in HINTS},
    **{f"tir_all_{c}": ({flip: 1}, {"all": 1}) for c, flip in zip(HINTS, OUTCOMES[4:7], strict=True)},
    "shift": ({"lost": 1}, {"neutral": 1}),
    "mrs": ({"adversarial": 4, "irrelevant": 1}, {"neutral": 5}),
}
DEFINITIONS = {
    "shift": "right without the hint and wrong with the false one / right without it; the CAAD authors' TIR_adv",
    "tir_all_adversarial": "right without the hint and wrong with the false one / all items; MCR-BENCH's TIR",
}  # of what goes by one name and means two things
SHARES = tuple(name for name, (_, whole) in RATIOS.items() if whole == {"all": 1})
POOLED = "all"
RULES = ("right", "strict", "lenient")  # what every group is scored by; the first has no key of its own
DRAWS = 1000
BLOCK = 500  # draws at a time: their weights take BLOCK x units x 8 bytes
LEVEL = 0.95


def score(right: np.ndarray, draws: int = DRAWS, seed: int = 0, unit: np.ndarray | None = None) -> dict:
    """Compute every metric of one or several runs on the same items.

    Args:
        right: bool [runs, 4, items], conditions in the order of CONDITIONS.
        unit: int [items], items that are drawn together (resampling_units.py); by default each by itself.

    Returns:
        `items`, `clips` (units), `runs`, and each metric as `{value, low, high, deviation}`: the mean over runs, its
        95% interval (`interval`) from a paired bootstrap over units (the same draw for every run and condition), and
        the sample deviation over runs (None for one run). A ratio whose denominator is 0 is None.
    """
    runs, conditions, items = right.shape
    if conditions != len(CONDITIONS) or not items:
        raise ValueError(f"expected right [runs, {len(CONDITIONS)}, items > 0], got {list(right.shape)}")
    unit = np.arange(items) if unit is None else unit
    point, drawn = resample(right, unit, draws, seed)
    units = int(unit.max()) + 1
    metrics = {name: _summary(point[name], drawn[name], units, name in SHARES) for name in point}
    return {"items": items, "clips": units, "runs": runs, **metrics}


def resample(
    right: np.ndarray, unit: np.ndarray, draws: int, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Compute every metric of each run [runs], and of bootstrap draws of its units [draws, runs]; undefined is nan.

    `right`: bool [runs, 4, items]. A draw takes the same units for every run and condition.
    """
    counts = per_unit(outcomes(right), unit)
    units = counts.shape[-1]
    random, parts = np.random.default_rng(seed), []
    for size in (min(BLOCK, draws - done) for done in range(0, draws, BLOCK)):
        weights = random.multinomial(units, np.full(units, 1 / units), size=size).astype(np.float64)
        parts.append(np.einsum("rku,du->drk", counts, weights, optimize=True))
    return _metrics(counts.sum(-1)), _metrics(np.concatenate(parts))


def figures_of_each(runs: list[list[dict]]) -> dict[str, list[float | None]]:
    """Every metric of all items together, by the first rule: a value per run, None where it is undefined."""
    right = answers(runs, items_by_subset(runs[0])[POOLED], RULES[0])
    found = _metrics(outcomes(right).sum(-1))
    return {name: [None if np.isnan(value) else float(value) for value in each] for name, each in found.items()}


def score_groups(runs: list[list[dict]], draws: int = DRAWS, seed: int = 0) -> dict[str, dict]:
    """Score each subset and, under `all`, the pooled items; by the first rule, and inside by the others' names.

    `runs`: for each run its predictions, `{id, condition, subset, clips, right, strict, lenient}`, complete over the
    same items.
    """
    found, units = {}, units_of(runs[0])
    for name, ids in items_by_subset(runs[0]).items():
        unit = numbered(units, ids)
        first, *others = (score(answers(runs, ids, rule), draws, seed, unit) for rule in RULES)
        found[name] = {**first, **dict(zip(RULES[1:], others, strict=True))}
    return found


def answers(runs: list[list[dict]], ids: list[str], rule: str) -> np.ndarray:
    """bool [runs, 4, items]: what each run got right by a rule, items in the order of `ids`."""
    tables = [{(p["id"], p["condition"]): p[rule] for p in run} for run in runs]
    return np.array([[[table[i, c] for i in ids] for c in CONDITIONS] for table in tables], dtype=bool)


def items_by_subset(predictions: Iterable[dict]) -> dict[str, list[str]]:
    """The sorted ids of each subset, and first, as `all`, those of all subsets."""
    members: dict[str, dict[str, None]] = defaultdict(dict)
    for prediction in predictions:
        members[prediction["subset"]][prediction["id"]] = None
    subsets = {name: sorted(ids) for name, ids in sorted(members.items())}
    return {POOLED: [i for ids in subsets.values() for i in ids], **subsets}


def outcomes(right: np.ndarray) -> np.ndarray:
    """bool [runs, 8, items], in the order of OUTCOMES, from bool [runs, 4, items]."""
    neutral, faithful, adversarial, irrelevant = (right[:, k] for k in range(4))
    flips = (~neutral & faithful, neutral & ~adversarial, neutral ^ irrelevant)
    return np.stack([neutral, faithful, adversarial, irrelevant, *flips, np.ones_like(neutral)], axis=1)


def numerators_and_denominators(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of every metric, [..., 12] each in the order of RATIOS, from counts of outcomes [..., 8]."""
    part, whole = (
        np.array([[sides[k].get(name, 0) for name in OUTCOMES] for sides in RATIOS.values()], np.float64)
        for k in range(2)
    )
    return counts @ part.T, counts @ whole.T


def _metrics(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics [...] from counts of outcomes [..., 8]; undefined ratios are nan."""
    part, whole = numerators_and_denominators(counts)
    values = part / np.where(whole > 0, whole, np.nan)
    return dict(zip(RATIOS, np.moveaxis(values, -1, 0), strict=True))


def _summary(point: np.ndarray, drawn: np.ndarray, units: int, is_share: bool) -> dict[str, float | None]:
    """`point` [runs], `drawn` [draws, runs]."""
    value = point.mean()
    if np.isnan(value):
        return {"value": None, "low": None, "high": None, "deviation": None}
    low, high = interval(drawn.mean(-1), units, float(value) if is_share else None)
    deviation = float(point.std(ddof=1)) if len(point) > 1 else None
    return {"value": float(value), "low": low, "high": high, "deviation": deviation}


def interval(drawn: np.ndarray, units: int, share: float | None = None) -> tuple[float | None, float | None]:
    """Compute the middle 95% of draws; undefined ones are left out.

    Where there are too few units, or all draws agree (every answer right, say), draws know no uncertainty: then it is
    Wilson's interval if the figure is a `share` of the items, and else None, None.
    """
    tail, known = (1 - LEVEL) / 2, drawn[~np.isnan(drawn)]
    if units >= FEWEST and len(known):
        low, high = (float(bound) for bound in np.quantile(known, [tail, 1 - tail]))
        if high - low > len(known) * np.finfo(float).eps * abs(high):
            return low, high
    return (None, None) if share is None else wilson(share, units)


def wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95% score interval of a share of `count` independent trials."""
    z = float(norm.ppf((1 + LEVEL) / 2))
    centre, reach = share + z * z / (2 * count), z * sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    return max(0.0, (centre - reach) / (1 + z * z / count)), min(1.0, (centre + reach) / (1 + z * z / count))
