"""Dynamic-SUPERB's scores with intervals over items.

instance     share of right answers
dimension    unweighted mean of its instances
ALL          unweighted mean of the 51 instances outside AUDIO; over fewer it is called `mean of N of 51`, and over
             some of their rows alone `ALL (not all rows)`
"""

from collections import Counter
from collections.abc import Iterable
from zlib import crc32

import numpy as np

from caad_ds.evaluation.benchmarks.dynamic_superb.instance_names import closest, dimensions
from caad_ds.evaluation.report.tables import percent, with_interval
from caad_ds.evaluation.scoring.resampling_units import numbered, per_unit, units_of
from caad_ds.evaluation.scoring.scores import DRAWS, RULES, interval

ALL, OUTSIDE = "ALL", "AUDIO"
PARTIAL = f"{ALL} (not all rows)"


def score_instances(runs: list[list[dict]], draws: int = DRAWS, seed: int = 0, complete: bool = True) -> dict:
    """Score one or several runs on the same items, `{id, subset, clips, right, strict, lenient}` each.

    `instances` and `dimensions` by name, `overall`; each `{value, low, high, deviation}`: the mean over runs, the 95%
    interval of a bootstrap over the clips of each instance (the same draw for every run), and the sample deviation
    over runs (None for one run); inside by the other rules. An interval is None, or for an instance Wilson's, where the
    bootstrap has no spread or an instance too few clips (`scores.interval`). A dimension without all of its instances
    is called `NAME (n of N)`. `missing` names the instances that no item is of, `unknown` those of no dimension.
    `complete` says that the runs are on every row of their instances.
    """
    drawn = DrawnInstances(runs, draws, seed)
    known, items = dimensions(), drawn.items
    dimension, overall = instance_groups(items, complete)
    [(name, counted)] = overall.items()
    return {
        "runs": len(runs),
        "instances": {
            instance: {"dimension": known.get(instance), "items": len(items[instance]), **drawn.scores([instance])}
            for instance in sorted(items)
        },
        "dimensions": {own: {"instances": len(ours), **drawn.scores(ours)} for own, ours in dimension.items()},
        "overall": {"name": name, **(drawn.scores(counted) if counted else {})},
        "missing": [instance for instance in known if instance not in items],
        "unknown": [instance for instance in sorted(items) if instance not in known],
    }


class DrawnInstances:
    """Accuracies [rules, runs] of instances, and under each draw [draws, rules, runs].

    `items` holds their ids, `right` float64 [rules, runs, items]. Units (resampling_units.py) are drawn within
    their instance, each instance by itself. Those with the same outcomes are drawn together, which gives the same
    distribution in a fraction of the time.
    """

    def __init__(self, runs: list[list[dict]], draws: int, seed: int):
        tables = [{p["id"]: p for p in run} for run in runs]
        self.units = units_of(runs[0])
        self.items: dict[str, list[str]] = {}
        for name, own in sorted((p["id"], p["subset"]) for p in tables[0].values()):
            self.items.setdefault(own, []).append(name)
        self.right = {
            name: np.array([[[table[i][rule] for i in ids] for table in tables] for rule in RULES], np.float64)
            for name, ids in self.items.items()
        }
        self._unit = {name: numbered(self.units, ids) for name, ids in self.items.items()}
        self._means = {name: self._draw(name, draws, seed) for name in self.items}

    def mean(self, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Of several instances, unweighted."""
        point, spread = zip(*(self._means[name] for name in names), strict=True)
        return np.mean(point, axis=0), np.mean(spread, axis=0)

    def fewest(self, names: list[str]) -> int:
        """The number of units of the instance that has fewest: its spread is the least known."""
        return min(int(self._unit[name].max()) + 1 for name in names)

    def scores(self, names: list[str]) -> dict:
        """Of their mean, by every rule."""
        point, spread = self.mean(names)
        units, share = self.fewest(names), len(names) == 1
        first, *others = (_summary(point[k], spread[:, k], units, share) for k in range(len(RULES)))
        return {**first, **dict(zip(RULES[1:], others, strict=True))}

    def _draw(self, name: str, draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        right, unit = self.right[name], self._unit[name]
        sums = np.vstack([per_unit(right.reshape(-1, right.shape[-1]), unit), np.bincount(unit)])
        outcomes, counts = np.unique(sums, axis=1, return_counts=True)
        rng = np.random.default_rng([seed, crc32(name.encode())])
        drawn = rng.multinomial(sums.shape[1], counts / sums.shape[1], size=draws) @ outcomes.T
        return right.mean(-1), (drawn[:, :-1] / drawn[:, -1:]).reshape(draws, *right.shape[:2])


def instance_groups(have: Iterable[str], complete: bool) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """The instances there are of each dimension, and of all that count, by the name that a mean of theirs may have."""
    known = dimensions()
    there = {name: [i for i, own in known.items() if own == name and i in have] for name in known.values()}
    size = Counter(known.values())
    by_dimension = {
        name if len(ours) == size[name] else f"{name} ({len(ours)} of {size[name]})": ours
        for name, ours in there.items()
        if ours
    }
    counted = [instance for name, ours in there.items() if name != OUTSIDE for instance in ours]
    all_ = len(known) - size[OUTSIDE]
    if len(counted) < all_:
        return by_dimension, {f"mean of {len(counted)} of {all_}": counted}
    return by_dimension, {ALL if complete else PARTIAL: counted}


def instances_rows(scores: dict) -> tuple[list[str], list[list[str]]]:
    """Header and rows of one system: a row per instance and per dimension, then all."""
    rows = []
    for dimension, mean in scores["dimensions"].items():
        ours = {i: s for i, s in scores["instances"].items() if s["dimension"] == dimension.split(" ")[0]}
        rows += [_line(f"  {instance}", str(each["items"]), each) for instance, each in ours.items()]
        rows.append(_line(dimension, str(sum(each["items"] for each in ours.values())), mean))
    rows += [_line(f"  {i}", str(scores["instances"][i]["items"]), scores["instances"][i]) for i in scores["unknown"]]
    if "value" in scores["overall"]:
        rows.append(_line(scores["overall"]["name"], "", scores["overall"]))
    return ["instance or dimension", "items", *RULES], rows


def instances_notes(scores: dict) -> list[str]:
    """What to know beside these rows."""
    known = dimensions()
    counted = len(known) - Counter(known.values())[OUTSIDE]
    own = "as the authors'" if scores["overall"]["name"] == ALL else "not the authors' figure, which is"
    notes = [f"{scores['overall']['name']}: {own} over all rows of all {counted} instances outside {OUTSIDE}."]
    if scores["missing"]:
        notes.append(f"{len(scores['missing'])} of {len(dimensions())} instances are missing (all in scores.json).")
    if scores["unknown"]:
        names = [f"{name} (is it {like}?)" if (like := closest(name)) else name for name in scores["unknown"]]
        notes.append(f"In no mean, because no dimension is known to hold them: {', '.join(names)}.")
    return notes


def _line(name: str, items: str, scores: dict) -> list[str]:
    return [name, items, with_interval(scores), *(percent(scores[rule]["value"]) for rule in RULES[1:])]


def _summary(point: np.ndarray, drawn: np.ndarray, units: int, is_share: bool) -> dict[str, float | None]:
    """`point` [runs], `drawn` [draws, runs]."""
    value = float(point.mean())
    low, high = interval(drawn.mean(-1), units, value if is_share else None)
    deviation = float(point.std(ddof=1)) if len(point) > 1 else None
    return {"value": value, "low": low, "high": high, "deviation": deviation}
