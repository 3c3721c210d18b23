"""Dynamic-SUPERB's scores with intervals over items, and their table.

instance     share of right answers
dimension    unweighted mean of its instances
ALL          unweighted mean of the 51 instances outside AUDIO; called `mean of N of 51` if some are missing, and
             `ALL (not all rows)` if some of their rows are
"""

from collections import Counter
from typing import ClassVar
from zlib import crc32

import numpy as np

from caad_ds.evaluation.benchmarks.dynamic_superb.dimensions import ALL, OUTSIDE, dimensions, instance_groups
from caad_ds.evaluation.benchmarks.dynamic_superb.instance_names import closest
from caad_ds.evaluation.scoring.bootstrap_scores import DRAWS, RULES, interval, judged_by
from caad_ds.evaluation.scoring.resampling_units import numbered, per_unit, units_of
from caad_ds.evaluation.tables_and_plots.tables import percent, with_interval


class Instances:
    """`instances`, `dimensions`, `overall`, `missing`, `unknown`."""

    conditions = (None,)
    definitions: ClassVar[dict[str, str]] = {}
    by_option = False
    reads: ClassVar[tuple[str, ...]] = ()

    def title(self, kind: str) -> str:
        """See `ResultKind`."""
        return "Dynamic-SUPERB"

    def score(self, runs: list[list[dict]], complete: bool, rule: str = RULES[0]) -> dict:
        """See `ResultKind`."""
        return score_instances(judged_by(rule, runs), complete=complete)

    def items(self, scores: dict) -> int:
        """See `ResultKind`."""
        return sum(instance["items"] for instance in scores["instances"].values())

    def rows(self, scores: dict) -> tuple[list[str], list[list[str]]]:
        """See `ResultKind`: a row per instance and per dimension, then all."""
        rows = []
        for dimension, mean in scores["dimensions"].items():
            members = {i: s for i, s in scores["instances"].items() if s["dimension"] == dimension.split(" ")[0]}
            rows += [_line(f"  {instance}", str(one["items"]), one) for instance, one in members.items()]
            rows.append(_line(dimension, str(sum(one["items"] for one in members.values())), mean))
        rows += [
            _line(f"  {i}", str(scores["instances"][i]["items"]), scores["instances"][i]) for i in scores["unknown"]
        ]
        if "value" in scores["overall"]:
            rows.append(_line(scores["overall"]["name"], "", scores["overall"]))
        return ["instance or dimension", "items", *RULES], rows

    def notes(self, scores: dict) -> list[str]:
        """See `ResultKind`."""
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

    def headline(self, scores: dict) -> dict[str, dict]:
        """See `ResultKind`."""
        return {**scores["dimensions"], scores["overall"]["name"]: scores["overall"]}


def _line(name: str, items: str, scores: dict) -> list[str]:
    return [name, items, with_interval(scores), *(percent(scores[rule]["value"]) for rule in RULES[1:])]


def score_instances(runs: list[list[dict]], draws: int = DRAWS, seed: int = 0, complete: bool = True) -> dict:
    """Score one or several runs on the same items, `{id, subset, clips, right, strict, lenient}` each.

    Returns `instances` and `dimensions` by name, `overall`, each `{value, low, high, deviation}`: the mean over runs,
    the 95% interval of a bootstrap over the clips of each instance (the same draw for every run), and the sample
    deviation over runs (None for one run); nested, the same by the other rules. Where the bootstrap has no spread or an
    instance too few clips, the interval is Wilson's for an instance, else None (`scores.interval`). A dimension with
    missing instances is called `NAME (n of N)`. `missing` lists instances without items, `unknown` those without a
    dimension. `complete`: the runs cover every row of their instances.
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
    """Accuracies [rules, runs] of instances, and of bootstrap draws [draws, rules, runs].

    `items` holds their ids, `right` float64 [rules, runs, items]. Units (resampling_units.py) are drawn within each
    instance. Units with equal outcomes are drawn together: the same distribution, much faster.
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
        """Return the unweighted mean of several instances, and its draws."""
        point, spread = zip(*(self._means[name] for name in names), strict=True)
        return np.mean(point, axis=0), np.mean(spread, axis=0)

    def fewest(self, names: list[str]) -> int:
        """Return the number of units of the smallest instance, whose spread is the least certain."""
        return min(int(self._unit[name].max()) + 1 for name in names)

    def scores(self, names: list[str]) -> dict:
        """Return the scores of the instances' mean, by every rule."""
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


def _summary(point: np.ndarray, drawn: np.ndarray, units: int, is_share: bool) -> dict[str, float | None]:
    """Summarise `point` [runs] with the interval of `drawn` [draws, runs]."""
    value = float(point.mean())
    low, high = interval(drawn.mean(-1), units, value if is_share else None)
    deviation = float(point.std(ddof=1)) if len(point) > 1 else None
    return {"value": value, "low": low, "high": high, "deviation": deviation}
