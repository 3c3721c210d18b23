"""Differences of systems from a baseline on the same items: intervals and p values.

Test        The two systems' answers are exchanged, unit by unit (a clip with all questions about it, under every
            condition, all runs together; units.py). If the systems are alike in truth, each of the 2^units exchanges
            is as likely as what was observed, so p, the share of exchanges that are as extreme, is exact at every size.
Statistic   A metric is a ratio of sums over items, n / d (scores.py). With theta = (N_a + N_b) / (D_a + D_b), which no
            exchange changes, it is sum over units of (n_a - n_b) - theta (d_a - d_b): above 0 where a's ratio is above
            b's, defined for every exchange, and of mean 0 also where the ratios alone are alike (of shares, d = 1, it
            is the difference; with one run and a question each that is McNemar's exact test).
Interval    95% of a paired bootstrap over units (the same draw for both systems, every run and condition).
p_holm      Holm's correction over the systems compared, for each group and metric by itself.

Several runs of one name (seeds) stand for their mean: the null hypothesis is that on other items *these* models would
do alike; what other seeds would give, it does not tell.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from scipy.stats import binom

from caad_ds.evaluation.scores import (
    LEVEL,
    RATIOS,
    RULES,
    SHARES,
    answers,
    interval,
    items_by_subset,
    numerators_and_denominators,
    outcomes,
    resample,
)
from caad_ds.evaluation.units import numbered, per_unit, units_of

DRAWS = 2000
EXCHANGES = 9999  # drawn where there are too many to enumerate
ENUMERATED = 1 << 14  # sums
BLOCK = 500  # exchanges at a time
FIELDS = ("value", "low", "high", "test", "p", "least_p", "p_holm", "significant", "too_few")
Weigh = Callable[[np.ndarray, np.ndarray], np.ndarray]


def differences(systems: dict[str, list[list[dict]]], baseline: str, draws: int = DRAWS) -> dict[str, dict[str, dict]]:
    """By system, group and metric what each system but the baseline differs by; inside a group by the other rules.

    `systems`: the runs of each name, as `score_groups` takes them, all over the same items. A difference is `{value,
    low, high, test, p, least_p, p_holm, significant, too_few}`; those of shares have also `higher` and `lower`, the
    number of items on which the system is above the baseline, and below. `least_p` is the smallest p that so many
    units can give, and `too_few` says that it could not make the figure significant. Where a metric is undefined for
    either, all are None; `low` and `high` also where the bootstrap has no spread (`scores.interval`).
    """
    others = [name for name in systems if name != baseline]
    found: dict[str, dict[str, dict]] = {name: {} for name in others}
    units = units_of(systems[baseline][0])
    known: dict[tuple[str, ...], list] = {}  # where there is one subset, it is all
    for group, ids in items_by_subset(systems[baseline][0]).items():
        unit = numbered(units, ids)
        if tuple(ids) not in known:
            known[tuple(ids)] = [_of_items(systems, baseline, ids, unit, rule, draws) for rule in RULES]
        first, *rest = known[tuple(ids)]
        for name in others:
            found[name][group] = {**first[name], **{rule: each[name] for rule, each in zip(RULES[1:], rest)}}
    return found


def exchange_p(ours: np.ndarray, theirs: np.ndarray, weigh: Weigh) -> np.ndarray:
    """Compute the two-sided p of each figure, [figures], if the systems could be exchanged unit by unit.

    `weigh` makes [units, figures] of answers [runs, ...] of two systems with as many runs: what each unit adds to a
    difference, and takes from it when exchanged. Several runs are exchanged together, since those of one system may be
    more alike than those of two. A system with more runs than the other is tested K times, once for each of its runs,
    with as many runs as the other has; K / k times the k-th smallest p is a p value whatever their dependence, because
    on average at most k alpha of them are below k alpha / K. k is half of K, rounded up.
    """
    few, many = sorted((ours, theirs), key=len)
    if len(few) == len(many):
        return sign_flip(weigh(ours, theirs))
    each = [sign_flip(weigh(few, np.roll(many, -k, axis=0)[: len(few)])) for k in range(len(many))]
    half = -(-len(many) // 2)
    return np.minimum(1.0, len(many) / half * np.sort(each, axis=0)[half - 1])


def least_p(ours: np.ndarray, theirs: np.ndarray, units: int) -> float:
    """The smallest p that `exchange_p` can give."""
    tests = max(len(ours), len(theirs))
    factor = 1 if len(ours) == len(theirs) else tests / -(-tests // 2)
    return min(1.0, factor * max(2.0 ** (1 - units), 1 / (1 + EXCHANGES)))


def sign_flip(weights: np.ndarray) -> np.ndarray:
    """P(|sum of weights with random signs| >= |sum of weights|), [figures], from [units, figures].

    Exact where the sums can be enumerated, else (1 + count) / (1 + EXCHANGES) over seeded draws.
    """
    p = [_enumerated(column) for column in weights.T]
    left = [k for k, value in enumerate(p) if value is None]
    for k, value in zip(left, _drawn(weights[:, left]) if left else (), strict=True):
        p[k] = float(value)
    return np.array(p, np.float64)


def holm(p_values: list[float]) -> list[float]:
    """p values adjusted by Holm's step-down procedure, which bounds the chance of any false finding among them."""
    order = np.argsort(p_values)
    steps = np.array(p_values)[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted.tolist()


def adjust(family: list[dict]) -> None:
    """Adds `p_holm`, `significant` and `too_few` to the differences of several systems in one figure."""
    family = [difference for difference in family if difference["p"] is not None]
    for difference, p in zip(family, holm([difference["p"] for difference in family]), strict=True):
        too_few = difference["least_p"] * len(family) >= 1 - LEVEL
        difference.update(p_holm=p, significant=p < 1 - LEVEL, too_few=too_few)


def difference_of(value: float, drawn: np.ndarray, units: int, p: float, least: float) -> dict:
    """A difference, from its bootstrap's draws [draws] and its test; all None where it is undefined."""
    if np.isnan(value):
        return dict.fromkeys(FIELDS)
    low, high = interval(drawn, units)
    return {"value": float(value), "low": low, "high": high, "test": "exchange", "p": float(p), "least_p": least}


def ratio_weights(ours: np.ndarray, theirs: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """What each unit adds to the difference in each metric, [units, 12], from answers bool [runs, 4, items].

    Integers, which sums of floats hold exactly: (n_a - n_b) D - N (d_a - d_b) with N, D the sums over both systems.
    """
    counts = [per_unit(outcomes(right).sum(0), unit).T for right in (ours, theirs)]
    (part_a, whole_a), (part_b, whole_b) = map(numerators_and_denominators, counts)
    parts, wholes = (part_a + part_b).sum(0), (whole_a + whole_b).sum(0)
    return (part_a - part_b) * wholes - parts * (whole_a - whole_b)


def _of_items(
    systems: dict[str, list[list[dict]]], baseline: str, ids: list[str], unit: np.ndarray, rule: str, draws: int
) -> dict[str, dict[str, dict]]:
    """By system and metric, for one group of items and one rule."""
    right = {name: answers(runs, ids, rule) for name, runs in systems.items()}
    units = int(unit.max()) + 1
    ends = np.cumsum([len(runs) for runs in right.values()])
    rows = {name: slice(end - len(right[name]), end) for name, end in zip(right, ends.tolist(), strict=True)}
    point, drawn = resample(np.concatenate(list(right.values())), unit, draws, seed=0)
    found: dict[str, dict[str, dict]] = {}
    for name in (name for name in systems if name != baseline):
        p = exchange_p(right[name], right[baseline], lambda a, b: ratio_weights(a, b, unit))
        least = least_p(right[name], right[baseline], units)
        higher = _above(right[name], right[baseline])
        found[name] = {}
        for metric, its_p, tested in zip(RATIOS, p, _direction(right[name], right[baseline]), strict=True):
            value = point[metric][rows[name]].mean() - point[metric][rows[baseline]].mean()
            its_p = 1.0 if value * tested < 0 else its_p
            draw = drawn[metric][:, rows[name]].mean(-1) - drawn[metric][:, rows[baseline]].mean(-1)
            found[name][metric] = difference_of(value, draw, units, its_p, least) | higher.get(metric, {})
    for metric in RATIOS:
        adjust([metrics[metric] for metrics in found.values()])
    return found


def _direction(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Sign of the difference tested, [12]: of ratios of sums over runs, where the figure is a mean of ratios."""
    (part, whole), (other, of) = (numerators_and_denominators(outcomes(r).sum((0, -1))) for r in (ours, theirs))
    return np.sign(part * of - other * whole)


def _above(ours: np.ndarray, theirs: np.ndarray) -> dict[str, dict[str, int]]:
    """For each share the items on which its mean over runs is above the other system's, and below."""
    mine, other = (numerators_and_denominators(outcomes(right).sum(0).T)[0] for right in (ours, theirs))
    by_item = dict(zip(RATIOS, (mine * len(theirs) - other * len(ours)).T, strict=True))
    return {m: {"higher": int((by_item[m] > 0).sum()), "lower": int((by_item[m] < 0).sum())} for m in SHARES}


def _enumerated(weights: np.ndarray) -> float | None:
    """Exact p of one figure, [units], size by size; None where the sums become too many."""
    sums, chances = np.zeros(1), np.ones(1)
    for size, count in zip(*np.unique(abs(weights[weights != 0]), return_counts=True), strict=True):
        if len(sums) * (count + 1) > ENUMERATED:
            return None
        kept = np.arange(count + 1)
        sums, place = np.unique(np.add.outer(sums, size * (2.0 * kept - count)), return_inverse=True)
        drawn = np.multiply.outer(chances, _heads(int(count)))
        chances = np.bincount(place.ravel(), drawn.ravel())
    return min(1.0, float(chances[abs(sums) >= _observed(weights)].sum()))


@lru_cache(1 << 12)
def _heads(count: int) -> np.ndarray:
    """Chances of 0, 1, ..., `count` heads of so many coins."""
    return binom.pmf(np.arange(count + 1), count, 0.5)


def _drawn(weights: np.ndarray) -> np.ndarray:
    """p of each figure, [figures], over EXCHANGES draws that all figures share."""
    weights = weights[(weights != 0).any(axis=1)]
    random, observed = np.random.default_rng(0), _observed(weights)
    extreme = np.zeros(weights.shape[1], int)
    for size in (min(BLOCK, EXCHANGES - done) for done in range(0, EXCHANGES, BLOCK)):
        signs = random.integers(0, 2, (size, len(weights)), np.int8) * 2.0 - 1
        extreme += (abs(signs @ weights) >= observed).sum(0)
    return (1 + extreme) / (1 + EXCHANGES)


def _observed(weights: np.ndarray) -> np.ndarray:
    """The statistic, less what rounding may take from one that equals it."""
    return abs(weights.sum(0)) - len(weights) * np.finfo(np.float64).eps * abs(weights).sum(0)
