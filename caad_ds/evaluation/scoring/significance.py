"""Differences of systems from a baseline on the same items: intervals and p values.

Test        The two systems' answers are exchanged, unit by unit (a clip with all questions about it, under every
            condition, all runs together; resampling_units.py). Under the null hypothesis each of the 2^units exchanges
            is as likely as the observed data, so p, the share of exchanges that are at least as extreme, is exact for
            every sample size.
Statistic   A metric is a ratio of sums over items, n / d (bootstrap_scores.py). Its difference over its standard error
            (the delta method's, over units), recomputed for every exchange: so p is asymptotically valid even if the
            systems are equal in the metric alone (Janssen 1997; Chung and Romano 2013). For shares, d = 1, it orders
            exchanges like the difference; with one run and one question per clip that is McNemar's exact test.
Too few     The standard error is unreliable if denominators differ and few items count: then (`_leverage`) p is 1.
Interval    95% of a paired bootstrap over units (the same draw for both systems, every run and condition).
p_holm      Holm's correction over the compared systems, separately for each group and metric.

Several runs of one name (seeds) are averaged: the null hypothesis is that *these* models perform equally on other
items; it makes no statement about other seeds.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from scipy.stats import binom

from caad_ds.evaluation.scoring.bootstrap_scores import LEVEL, RULES, interval, items_by_subset, resample
from caad_ds.evaluation.scoring.metric_definitions import CONFLICTS, Metrics
from caad_ds.evaluation.scoring.resampling_units import numbered, per_unit, units_of

DRAWS = 2000
EXCHANGES = 9999  # drawn where there are too many to enumerate
ENUMERATED = 1 << 14  # exchanges, of which those alike are one
MOST_LEVERAGE = 0.2  # chosen by benchmarks/calibration.py
BLOCK = 500  # exchanges at a time
FIELDS = ("value", "low", "high", "test", "p", "least_p", "p_holm", "significant", "too_few")
TIE = 1e-9  # tolerance for values of |t| that are equal up to rounding
Sums = Callable[[np.ndarray], np.ndarray]


def differences(
    systems: dict[str, list[list[dict]]], baseline: str, draws: int = DRAWS, metrics: Metrics = CONFLICTS
) -> dict[str, dict[str, dict]]:
    """Return the differences of each system from the baseline, by system, group and metric; nested by the other rules.

    `systems`: the runs of each name, as `score_groups` takes them, all over the same items. A difference is `{value,
    low, high, test, p, least_p, p_holm, significant, too_few}`; those of shares have also `higher` and `lower`, the
    number of items on which the system is above the baseline, and below. `least_p` is the smallest possible p for this
    number of units; `too_few`: even that would not be significant. If a metric is undefined for either system, all are
    None; `low` and `high` also if the bootstrap has no spread (`scores.interval`).
    """
    others = [name for name in systems if name != baseline]
    found: dict[str, dict[str, dict]] = {name: {} for name in others}
    units = units_of(systems[baseline][0])
    known: dict[tuple[str, ...], list] = {}  # a single subset equals the pooled items
    for group, ids in items_by_subset(systems[baseline][0]).items():
        unit = numbered(units, ids)
        if tuple(ids) not in known:
            known[tuple(ids)] = [
                _of_items(systems, baseline, ids, unit, rule, draws, metrics.by(rule == RULES[0])) for rule in RULES
            ]
        first, *rest = known[tuple(ids)]
        for name in others:
            found[name][group] = {**first[name], **{rule: other[name] for rule, other in zip(RULES[1:], rest)}}
    return found


def exchange_p(ours: np.ndarray, theirs: np.ndarray, sums: Sums) -> np.ndarray:
    """Compute the two-sided p of each figure, and the smallest it could be, [2, figures], by exchanging units.

    `sums` computes numerators and denominators [2, units, figures] from answers [runs, ...] of one system. The runs of
    a system are exchanged together, since they may be more alike than those of two systems. A system with more runs,
    K, than the other is tested K times, starting at each of its runs, with as many runs as the other has; K / k times
    the k-th smallest p is a p value under any dependence, because on average at most k alpha of them are below
    k alpha / K. k is half of K, rounded up.
    """
    few, many = sorted((ours, theirs), key=len)
    if len(few) == len(many):
        return exchange_test(sums(ours), sums(theirs))
    tests = [exchange_test(sums(few), sums(np.roll(many, -k, axis=0)[: len(few)])) for k in range(len(many))]
    half = -(-len(many) // 2)
    return np.minimum(1.0, len(many) / half * np.sort(tests, axis=0)[half - 1])


def exchange_test(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Compute p = P(|t| of a random exchange >= |t|), and the smallest p that it could be, [2, figures].

    From numerators and denominators [2, units, figures]. Exact where the exchanges can be enumerated, else
    (1 + count) / (1 + EXCHANGES) over seeded draws.

    With N, D the sums over both systems, z = D n - N d are a unit's residuals from their common ratio, w = z_a - z_b,
    m = z_a + z_b. The difference of the ratios is proportional to sum(w), and a unit's contribution is w - g m, where
    g = sum(d_a - d_b) / D: so t^2 = sum(w)^2 / sum((w - g m)^2), and 0 for 0 / 0, i.e. no difference. It is defined
    even if an exchange leaves a system without a denominator. Exchanging a unit flips the signs of its w and d_a - d_b;
    N, D and m stay.
    """
    (n_a, d_a), (n_b, d_b) = ours, theirs
    part, whole = (n_a + n_b).sum(0), (d_a + d_b).sum(0)
    z_a, z_b = n_a * whole - d_a * part, n_b * whole - d_b * part
    g = (d_a - d_b) / np.where(whole, whole, 1)
    w, m = z_a - z_b, (z_a + z_b) * g.any(0)  # m counts only where denominators differ
    terms, constant = np.stack([w, w * m, g]), np.stack([(w**2).sum(0), (m**2).sum(0)])
    p = [_enumerated(terms[..., k], constant[:, k]) for k in range(len(whole))]
    left = [k for k, value in enumerate(p) if value is None]
    for k, value in zip(left, _drawn(terms[..., left], constant[:, left]) if left else (), strict=True):
        p[k] = float(value)
    least = max(2.0 ** (1 - len(w)), 1 / (1 + EXCHANGES))
    too_few = _leverage(np.stack([z_a, z_b]), g.sum(0)) > MOST_LEVERAGE
    return np.where(too_few, 1.0, np.array([p, [min(1.0, least)] * len(p)], float))


def holm(p_values: list[float]) -> list[float]:
    """Return p values adjusted by Holm's step-down procedure, which controls the family-wise error rate."""
    order = np.argsort(p_values)
    steps = np.array(p_values)[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted.tolist()


def adjust(family: list[dict]) -> None:
    """Add `p_holm`, `significant` and `too_few` to the differences of several systems in one metric."""
    family = [difference for difference in family if difference["p"] is not None]
    for difference, p in zip(family, holm([difference["p"] for difference in family]), strict=True):
        too_few = difference["least_p"] * len(family) >= 1 - LEVEL
        difference.update(p_holm=p, significant=p < 1 - LEVEL, too_few=too_few)


def difference_of(value: float, drawn: np.ndarray, units: int, p: float, least: float) -> dict:
    """Return a difference from its bootstrap draws [draws] and its test; all None if undefined."""
    if np.isnan(value):
        return dict.fromkeys(FIELDS)
    low, high = interval(drawn, units)
    return {"value": float(value), "low": low, "high": high, "test": "exchange", "p": float(p), "least_p": float(least)}


def ratio_sums(right: np.ndarray, unit: np.ndarray, metrics: Metrics = CONFLICTS) -> np.ndarray:
    """Return each metric's numerators and denominators, [2, units, metrics], from answers bool [runs, facts, items]."""
    return np.stack(metrics.sides(per_unit(metrics.count(right).sum(0), unit).T))


def _of_items(
    systems: dict[str, list[list[dict]]], baseline: str, ids: list[str], unit: np.ndarray, rule: str, draws: int,
    metrics: Metrics,
) -> dict[str, dict[str, dict]]:  # fmt: skip
    """Return the differences by system and metric, for one group of items and one rule."""
    right = {name: metrics.answers(runs, ids, rule) for name, runs in systems.items()}
    units = int(unit.max()) + 1
    ends = np.cumsum([len(runs) for runs in right.values()])
    rows = {name: slice(end - len(right[name]), end) for name, end in zip(right, ends.tolist(), strict=True)}
    point, drawn = resample(np.concatenate(list(right.values())), unit, draws, seed=0, metrics=metrics)
    found: dict[str, dict[str, dict]] = {}
    for name in (name for name in systems if name != baseline):
        tested = exchange_p(right[name], right[baseline], lambda answered: ratio_sums(answered, unit, metrics))
        higher = _above(right[name], right[baseline], metrics)
        found[name] = {}
        signs = _direction(right[name], right[baseline], metrics)
        for metric, (p, least), sign in zip(metrics.ratios, tested.T, signs, strict=True):
            value = point[metric][rows[name]].mean() - point[metric][rows[baseline]].mean()
            p = 1.0 if value * sign < 0 else p
            draw = drawn[metric][:, rows[name]].mean(-1) - drawn[metric][:, rows[baseline]].mean(-1)
            found[name][metric] = difference_of(value, draw, units, p, least) | higher.get(metric, {})
    for metric in metrics.ratios:
        adjust([figures[metric] for figures in found.values()])
    return found


def _direction(ours: np.ndarray, theirs: np.ndarray, metrics: Metrics) -> np.ndarray:
    """Return signs of the tested differences, [metrics]: of ratios of sums over runs (metrics are means of ratios)."""
    (part, whole), (other, of) = (metrics.sides(metrics.count(r).sum((0, -1))) for r in (ours, theirs))
    return np.sign(part * of - other * whole)


def _above(ours: np.ndarray, theirs: np.ndarray, metrics: Metrics) -> dict[str, dict[str, int]]:
    """Count, for each share, the items on which its mean over runs is above the other system's, and below."""
    mine, other = (metrics.sides(metrics.count(right).sum(0).T)[0] for right in (ours, theirs))
    by_item = dict(zip(metrics.ratios, (mine * len(theirs) - other * len(ours)).T, strict=True))
    return {m: {"higher": int((by_item[m] > 0).sum()), "lower": int((by_item[m] < 0).sum())} for m in metrics.shares}


def _leverage(residuals: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Compute how much single units dominate each difference, [figures], from residuals [2, units, figures] and g.

    It bounds the skewness of the difference between systems with identically distributed residuals; a system with a
    small denominator may not show their full range. It is 0 for equal denominators.
    """
    second, fourth = ((residuals**k).sum((0, 1)) for k in (2, 4))
    bound = np.sqrt(fourth) / np.where(second, second, 1)
    with np.errstate(divide="ignore"):
        return 2 * abs(g) / np.sqrt(np.maximum(0, 1 - g**2)) * np.maximum(bound, np.finfo(float).tiny)


def _enumerated(terms: np.ndarray, constant: np.ndarray) -> float | None:
    """Return the exact p of one metric from terms [3, units] and constants [2]; None if there are too many exchanges.

    For units with the same terms, up to sign, only the number of exchanged ones matters.
    """
    terms = terms[:, terms.any(0)]
    if not terms.size:
        return 1.0
    first = np.take_along_axis(terms, (terms != 0).argmax(0)[None], 0)  # its sign is made positive
    kinds, counts = np.unique(terms * np.sign(first), axis=1, return_counts=True)
    if np.log2(counts + 1).sum() > np.log2(ENUMERATED):
        return None
    kept = np.indices(tuple(counts + 1)).reshape(len(counts), -1)
    chances = np.prod([_heads(int(count))[k] for count, k in zip(counts, kept, strict=True)], axis=0)
    t = _statistic(kinds @ (2.0 * kept - counts[:, None]), constant[:, None])
    return min(1.0, float(chances[t >= _statistic(terms.sum(1), constant) - TIE].sum()))


@lru_cache(1 << 12)
def _heads(count: int) -> np.ndarray:
    """Return the probabilities of 0, 1, ..., `count` heads of `count` coins."""
    return binom.pmf(np.arange(count + 1), count, 0.5)


def _drawn(terms: np.ndarray, constant: np.ndarray) -> np.ndarray:
    """Return p of each metric, [figures], over EXCHANGES draws shared by all metrics."""
    terms = terms[:, terms.any(axis=(0, 2))]
    random, observed = np.random.default_rng(0), _statistic(terms.sum(1), constant)
    extreme = np.zeros(terms.shape[-1], int)
    for size in (min(BLOCK, EXCHANGES - done) for done in range(0, EXCHANGES, BLOCK)):
        signs = random.integers(0, 2, (size, terms.shape[1]), np.int8) * 2.0 - 1
        extreme += (_statistic(signs @ terms, constant[:, None]) >= observed - TIE).sum(0)
    return (1 + extreme) / (1 + EXCHANGES)


def _statistic(sums: np.ndarray, constant: np.ndarray) -> np.ndarray:
    """Return |t| from the sums of exchanged terms [3, ...] and the sums that exchanges do not change [2, ...]."""
    w, wm, g = sums
    ww, mm = constant
    variance = ww - 2 * g * wm + g**2 * mm
    return np.where(w != 0, abs(w) / np.sqrt(np.where(w != 0, variance, 1)), 0)
