"""Differences of systems from a baseline on the same items: intervals and p values.

Interval    95% of a paired bootstrap over items (the same draw for both systems, every run and condition).
p, shares   accuracies and tir: exact sign-flip test over items; with one run each it is McNemar's exact test.
p, ratios   norm_accuracy, shift, mrs: twice the smaller share of the bootstrap's draws on either side of 0.
p_holm      Holm's correction over the systems compared, for each group and metric by itself.

Several runs of one name (seeds) stand for their mean, and an item is drawn, or flipped, with all of its runs. So
interval and p tell what other items would have given *these* models; what other seeds would give, they do not tell.
"""

from collections.abc import Iterator
from itertools import pairwise
from math import lcm

import numpy as np
from scipy.signal import fftconvolve
from scipy.stats import binom

from caad_ds.evaluation.scores import LEVEL, RULES, SHARES, answers, interval, items_by_subset, outcomes, resample

DRAWS = 2000


def differences(systems: dict[str, list[list[dict]]], baseline: str, draws: int = DRAWS) -> dict[str, dict[str, dict]]:
    """By system, group and metric what each system but the baseline differs by; `strict` inside a group likewise.

    `systems`: the runs of each name, as `score_groups` takes them, all over the same items. A difference is `{value,
    low, high, test, p, p_holm, significant}`; those of shares have also `higher` and `lower`, the number of items on
    which the system is above the baseline, and below. Where a metric is undefined for either, all are None.
    """
    others = [name for name in systems if name != baseline]
    found: dict[str, dict[str, dict]] = {name: {} for name in others}
    for group, ids in items_by_subset(systems[baseline][0]).items():
        right, strict = (_of_items(systems, baseline, ids, rule, draws) for rule in RULES)
        for name in others:
            found[name][group] = {**right[name], "strict": strict[name]}
    return found


def sign_flip(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float | int]:
    """Exact two-sided test that, item by item, the two systems could be exchanged: `{p, higher, lower}`.

    `ours` [runs, items] and `theirs` [runs', items] hold 0 or 1. The statistic is the difference of the means over
    runs, summed over items; under the null hypothesis each item's sign is a fair coin. With one run each this is
    McNemar's exact test, a binomial one on the items that differ.
    """
    unit = lcm(len(ours), len(theirs))
    by_item = (ours.sum(0) * (unit // len(ours)) - theirs.sum(0) * (unit // len(theirs))).astype(int)
    total, above = int(abs(by_item).sum()), int(by_item[by_item > 0].sum())
    extreme = max(above, total - above)
    tail = _upper_tail(abs(by_item), extreme) if 2 * extreme > total else 0.5
    higher, lower = int((by_item > 0).sum()), int((by_item < 0).sum())
    return {"p": min(1.0, 2 * tail), "higher": higher, "lower": lower}


def holm(p_values: list[float]) -> list[float]:
    """p values adjusted by Holm's step-down procedure, which bounds the chance of any false finding among them."""
    order = np.argsort(p_values)
    steps = np.array(p_values)[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted.tolist()


def _of_items(
    systems: dict[str, list[list[dict]]], baseline: str, ids: list[str], rule: str, draws: int
) -> dict[str, dict[str, dict]]:
    """By system and metric, for one group of items and one rule."""
    right = {name: answers(runs, ids, rule) for name, runs in systems.items()}
    point, drawn = resample(np.concatenate(list(right.values())), draws, seed=0)
    rows = dict(zip(right, _slices([len(runs) for runs in right.values()]), strict=True))
    found: dict[str, dict[str, dict]] = {}
    for name in (name for name in systems if name != baseline):
        exact = dict(zip(SHARES, _exact_tests(right[name], right[baseline]), strict=True))
        found[name] = {}
        for metric in point:
            value = point[metric][rows[name]].mean() - point[metric][rows[baseline]].mean()
            draw = drawn[metric][:, rows[name]].mean(-1) - drawn[metric][:, rows[baseline]].mean(-1)
            found[name][metric] = difference_of(value, draw, exact.get(metric))
    for metric in point:
        adjust([metrics[metric] for metrics in found.values() if metrics[metric]["p"] is not None])
    return found


def _slices(lengths: list[int]) -> Iterator[slice]:
    return (slice(start, end) for start, end in pairwise(np.cumsum([0, *lengths]).tolist()))


def _exact_tests(ours: np.ndarray, theirs: np.ndarray) -> Iterator[dict]:
    pairs = zip(outcomes(ours).swapaxes(0, 1), outcomes(theirs).swapaxes(0, 1), strict=True)
    return (sign_flip(mine, other) for mine, other in pairs)


def difference_of(value: float, drawn: np.ndarray, exact: dict | None = None) -> dict:
    """A difference, from its bootstrap's draws [draws], as `{value, low, high, test, p}`; all None where undefined."""
    if np.isnan(value):
        return dict.fromkeys(("value", "low", "high", "test", "p", "p_holm", "significant"))
    low, high = interval(drawn)
    tested = {"test": "exact", **exact} if exact else {"test": "bootstrap", "p": _bootstrap_p(drawn)}
    return {"value": float(value), "low": low, "high": high, **tested}


def _bootstrap_p(drawn: np.ndarray) -> float:
    """Never 0: the data themselves count as a draw on either side."""
    known = drawn[~np.isnan(drawn)]
    side = min((known <= 0).sum(), (known >= 0).sum())
    return min(1.0, float(2 * (1 + side) / (1 + len(known))))


def adjust(family: list[dict]) -> None:
    """Adds `p_holm` and `significant` to the differences of several systems in one figure."""
    for difference, p in zip(family, holm([difference["p"] for difference in family]), strict=True):
        difference.update(p_holm=p, significant=p < 1 - LEVEL)


def _upper_tail(sizes: np.ndarray, least: int) -> float:
    """P(sum of the sizes whose coin shows heads >= least); `sizes` are integers, 0 counts for nothing."""
    chances = np.ones(1)
    for size, count in zip(*np.unique(sizes[sizes > 0], return_counts=True), strict=True):
        heads = np.zeros(size * count + 1)
        heads[::size] = binom.pmf(np.arange(count + 1), count, 0.5)
        chances = heads if len(chances) == 1 else fftconvolve(chances, heads)
    return float(np.clip(chances[least:].sum(), 0.0, 1.0))
