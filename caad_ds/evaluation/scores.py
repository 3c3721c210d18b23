"""MCR-BENCH's metrics with intervals over items.

Acc_c                  share of right answers under condition c
NormAcc_c              Acc_c / Acc_neutral
tir_faithful           wrong -> right under the faithful text / all items
tir_adversarial        right -> wrong under the adversarial text / all items
tir_irrelevant         changed either way under the irrelevant text / all items
shift                  right -> wrong under the adversarial text / right when neutral
MRS                    0.8 NormAcc_adversarial + 0.2 NormAcc_irrelevant
"""

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from caad_ds.evaluation.mcr_bench import CONDITIONS, HINTS

# The metrics that are shares of items; the others are ratios of them.
SHARES = (*(f"accuracy_{c}" for c in CONDITIONS), *(f"tir_{c}" for c in HINTS))
POOLED = "all"
RULES = ("right", "strict")
DRAWS = 1000
BLOCK = 500  # draws at a time: their weights take BLOCK x items x 8 bytes
LEVEL = 0.95


def score(right: np.ndarray, draws: int = DRAWS, seed: int = 0) -> dict:
    """Every metric of one or several runs on the same items.

    `right`: bool [runs, 4, items], conditions in the order of CONDITIONS. A metric is `{value, low, high, deviation}`:
    the mean over runs, the 95% interval of a paired bootstrap over items (the same draw for every run and condition),
    and the sample deviation over runs (None for one run). A ratio whose denominator is 0 is None; draws that leave it
    undefined are left out of its interval.
    """
    runs, conditions, items = right.shape
    if conditions != len(CONDITIONS) or not items:
        raise ValueError(f"expected right [runs, {len(CONDITIONS)}, items > 0], got {list(right.shape)}")
    point, drawn = resample(right, draws, seed)
    return {"items": items, "runs": runs, **{name: _summary(point[name], drawn[name]) for name in point}}


def resample(right: np.ndarray, draws: int, seed: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Every metric of each run [runs] and the same of bootstrap draws of its items [draws, runs]; undefined is nan.

    `right`: bool [runs, 4, items]. A draw takes the same items for every run and condition.
    """
    shares, items = outcomes(right), right.shape[-1]
    random, parts = np.random.default_rng(seed), []
    for size in (min(BLOCK, draws - done) for done in range(0, draws, BLOCK)):
        weights = random.multinomial(items, np.full(items, 1 / items), size=size) / items
        parts.append(np.einsum("rki,di->drk", shares, weights, optimize=True))
    return _metrics(shares.mean(-1)), _metrics(np.concatenate(parts))


def score_groups(runs: list[list[dict]], draws: int = DRAWS, seed: int = 0) -> dict[str, dict]:
    """The scores of each subset and, under `all`, of the pooled items; `strict` inside holds the strict ones.

    `runs`: for each run its predictions, `{id, condition, subset, right, strict}`, complete over the same items.
    """
    found = {}
    for name, ids in items_by_subset(runs[0]).items():
        right, strict = (score(answers(runs, ids, rule), draws, seed) for rule in RULES)
        found[name] = {**right, "strict": strict}
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
    """float64 [runs, 7, items], in the order of SHARES; every metric is made of their means."""
    neutral, faithful, adversarial, irrelevant = (right[:, k] for k in range(4))
    flips = (~neutral & faithful, neutral & ~adversarial, neutral ^ irrelevant)
    return np.stack([neutral, faithful, adversarial, irrelevant, *flips], axis=1).astype(np.float64)


def _metrics(means: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics [...] from outcome means [..., 7]; undefined ratios are nan."""
    accuracy = {c: means[..., k] for k, c in enumerate(CONDITIONS)}
    tir = {c: means[..., 4 + k] for k, c in enumerate(HINTS)}
    neutral = np.where(accuracy["neutral"] > 0, accuracy["neutral"], np.nan)
    norm = {c: accuracy[c] / neutral for c in HINTS}
    return {
        **{f"accuracy_{c}": value for c, value in accuracy.items()},
        **{f"norm_accuracy_{c}": value for c, value in norm.items()},
        **{f"tir_{c}": value for c, value in tir.items()},
        "shift": tir["adversarial"] / neutral,
        "mrs": 0.8 * norm["adversarial"] + 0.2 * norm["irrelevant"],
    }


def _summary(point: np.ndarray, drawn: np.ndarray) -> dict[str, float | None]:
    """`point` [runs], `drawn` [draws, runs]."""
    value = point.mean()
    if np.isnan(value):
        return {"value": None, "low": None, "high": None, "deviation": None}
    low, high = interval(drawn.mean(-1))
    deviation = float(point.std(ddof=1)) if len(point) > 1 else None
    return {"value": float(value), "low": low, "high": high, "deviation": deviation}


def interval(drawn: np.ndarray) -> tuple[float, float]:
    """The middle 95% of draws; undefined ones are left out."""
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(drawn, [tail, 1 - tail])
    return float(low), float(high)
