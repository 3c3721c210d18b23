"""Dynamic-SUPERB's scores with intervals over items.

instance     share of right answers
dimension    unweighted mean of its instances
ALL          unweighted mean of the 51 instances outside AUDIO; over fewer it is called `mean of N of 51`
"""

from collections import defaultdict
from zlib import crc32

import numpy as np
from rich.table import Table

from caad_ds.evaluation.dynamic_superb import dimensions
from caad_ds.evaluation.scores import DRAWS, LEVEL
from caad_ds.evaluation.tables import percent, terminal, with_interval

OUTSIDE = "AUDIO"
RULES = ("right", "strict")


def score_instances(runs: list[list[dict]], draws: int = DRAWS, seed: int = 0) -> dict:
    """Scores of one or several runs on the same items, `{id, subset, right, strict}` each.

    `instances` and `dimensions` by name, `overall`; each `{value, low, high, deviation}`: the mean over runs, the 95%
    interval of a bootstrap over the items of each instance (the same draw for every run), and the sample deviation
    over runs (None for one run); inside `strict` by the strict rule. A dimension without all of its instances is
    called `NAME (n of N)`. `missing` names the instances that no item is of, `unknown` those of no dimension.
    """
    tables = [{p["id"]: p for p in run} for run in runs]
    items: dict[str, dict[str, None]] = defaultdict(dict)
    for p in runs[0]:
        items[p["subset"]][p["id"]] = None
    drawn = {name: [_drawn(tables, ids, rule, name, draws, seed) for rule in RULES] for name, ids in items.items()}
    known = dimensions()

    def mean(names: list[str]) -> dict:
        columns = zip(*(drawn[name] for name in names), strict=True)
        right, strict = (_summary(*(np.mean(part, axis=0) for part in zip(*column, strict=True))) for column in columns)
        return {**right, "strict": strict}

    groups = {name: [i for i, own in known.items() if own == name] for name in dict.fromkeys(known.values())}
    counted = [instance for instance, dimension in known.items() if dimension != OUTSIDE]
    have = [instance for instance in counted if instance in items]
    return {
        "runs": len(runs),
        "instances": {
            name: {"dimension": known.get(name), "items": len(items[name]), **mean([name])} for name in sorted(items)
        },
        "dimensions": {
            _called(name, len(ours), len(all_)): {"instances": len(ours), "of": len(all_), **mean(ours)}
            for name, all_ in groups.items()
            if (ours := [instance for instance in all_ if instance in items])
        },
        "overall": {
            "name": "ALL" if len(have) == len(counted) else f"mean of {len(have)} of {len(counted)}",
            **(mean(have) if have else {}),
        },
        "missing": [instance for instance in known if instance not in items],
        "unknown": [instance for instance in sorted(items) if instance not in known],
    }


def instances_table(name: str, scores: dict) -> tuple[Table, list[str]]:
    """One system: a line per instance and per dimension, then all; and what to know beside it."""
    rows = []
    for dimension, mean in scores["dimensions"].items():
        ours = {i: s for i, s in scores["instances"].items() if s["dimension"] == dimension.split(" ")[0]}
        rows += [_line(f"  {instance}", str(each["items"]), each) for instance, each in ours.items()]
        rows.append(_line(dimension, str(sum(each["items"] for each in ours.values())), mean))
    rows += [_line(f"  {i}", str(scores["instances"][i]["items"]), scores["instances"][i]) for i in scores["unknown"]]
    if "value" in scores["overall"]:
        rows.append(_line(scores["overall"]["name"], "", scores["overall"]))
    notes = []
    if scores["missing"]:
        notes.append(f"{len(scores['missing'])} of {len(dimensions())} instances are missing (all in scores.json).")
    if scores["unknown"]:
        notes.append(f"In no mean, because no dimension is known to hold them: {', '.join(scores['unknown'])}.")
    title = f"{name}: percentages; 95% intervals over items; {OUTSIDE} is in no overall mean"
    return terminal(title, ["instance or dimension", "items", "right", "strict"], rows), notes


def _line(name: str, items: str, scores: dict) -> list[str]:
    return [name, items, with_interval(scores), percent(scores["strict"]["value"])]


def _called(dimension: str, have: int, of: int) -> str:
    return dimension if have == of else f"{dimension} ({have} of {of})"


def _drawn(
    tables: list[dict], ids: dict[str, None], rule: str, name: str, draws: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """An instance's accuracy [runs], and under each draw [draws, runs]; instances are drawn independently."""
    right = np.array([[table[i][rule] for i in sorted(ids)] for table in tables], dtype=np.float64)
    items = right.shape[1]
    rng = np.random.default_rng([seed, crc32(name.encode())])
    counts = rng.multinomial(items, np.full(items, 1 / items), size=draws)
    return right.mean(-1), counts @ right.T / items


def _summary(point: np.ndarray, drawn: np.ndarray) -> dict[str, float | None]:
    """`point` [runs], `drawn` [draws, runs]."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(drawn.mean(-1), [tail, 1 - tail])
    deviation = float(point.std(ddof=1)) if len(point) > 1 else None
    return {"value": float(point.mean()), "low": float(low), "high": float(high), "deviation": deviation}
