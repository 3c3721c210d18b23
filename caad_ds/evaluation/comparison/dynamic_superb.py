"""`caad-ds compare` of Dynamic-SUPERB runs: a row per system, a column per dimension and ALL."""

import numpy as np

from caad_ds.evaluation.benchmarks.dynamic_superb.dimensions import instance_groups
from caad_ds.evaluation.comparison.result import Comparison
from caad_ds.evaluation.comparison.run_folders import Runs
from caad_ds.evaluation.result_kinds.dynamic_superb import DrawnInstances, score_instances
from caad_ds.evaluation.scoring.resampling_units import numbered, per_unit
from caad_ds.evaluation.scoring.significance import DRAWS as PAIRED_DRAWS
from caad_ds.evaluation.scoring.significance import adjust, difference_of, exchange_p
from caad_ds.evaluation.tables_and_plots.comparison_plots import bars
from caad_ds.evaluation.tables_and_plots.comparison_tables import (
    NOTE,
    difference_rows,
    interval_rows,
    significance_legend,
    system_row,
)
from caad_ds.evaluation.tables_and_plots.tables import NO_INTERVAL, markdown
from caad_ds.utils.progress import progress


def compare_dimensions(read: Runs, baseline: str, title: str) -> Comparison:
    """Compare runs on Dynamic-SUPERB by dimension and ALL."""
    runs, complete, systems = read.systems, read.complete, {}
    with progress("comparing", len(runs)) as advance:
        for name, predictions in runs.items():
            systems[name] = score_instances(predictions, complete=complete)
            advance(1)
    with progress(f"differences from {baseline}"):
        found = differences(runs, baseline, complete=complete)
    metrics = {name: _metrics_of(scores) for name, scores in systems.items()}
    rows = [system_row(name, systems[name]["runs"], metrics[name], found.get(name, {})) for name in systems]
    details = [NO_INTERVAL, markdown(*interval_rows(metrics))]
    if found:
        details += [f"Differences from {baseline}, in points:", markdown(*difference_rows(found))]
    legends = [NOTE, *([significance_legend(baseline, found)] if found else [])]
    table = ["system", "runs", *metrics[baseline]], rows
    pictures = {}
    if shown := list(metrics[baseline]):  # empty if no instance has a known dimension
        ranked = dict(sorted(metrics.items(), key=lambda system: -system[1][shown[-1]]["value"]))
        pictures["table.png"] = lambda file: bars(ranked, f"{title}, by {shown[-1]}", file)
    return Comparison(title, baseline, systems, metrics, found, table, legends, details, pictures, metrics, found)


def differences(
    systems: dict[str, list[list[dict]]], baseline: str, draws: int = PAIRED_DRAWS, complete: bool = True
) -> dict[str, dict]:
    """Return the difference of each system's mean over runs from the baseline's, by system, dimension and ALL.

    `systems`: runs on the same items. Differences and their exchange test are those of `significance.differences`; an
    item has the weight 1 / items of its instance. The bootstrap draws within each instance, the same clips for both
    systems.
    """
    others = {name: runs for name, runs in systems.items() if name != baseline}
    found = {name: _difference(runs, systems[baseline], draws, complete) for name, runs in others.items()}
    for figure in next(iter(found.values()), {}):
        adjust([metrics[figure] for metrics in found.values()])
    return found


def _difference(runs: list[list[dict]], baseline: list[list[dict]], draws: int, complete: bool) -> dict[str, dict]:
    drawn = DrawnInstances([*runs, *baseline], draws, seed=0)
    dimension, overall = instance_groups(drawn.items, complete)
    found = {}
    for name, instances in {**dimension, **overall}.items():
        if instances:
            means = (mean[..., 0, :] for mean in drawn.mean(instances))
            value, draw = (part[..., : len(runs)].mean(-1) - part[..., len(runs) :].mean(-1) for part in means)
            p, least = _tested(drawn, instances, len(runs))
            found[name] = difference_of(float(value), draw, drawn.fewest(instances), p, least)
    return found


def _tested(drawn: DrawnInstances, instances: list[str], ours: int) -> tuple[float, float]:
    """Return p of a mean of instances for the first `ours` runs against the others, and the smallest possible p."""
    names = [name for instance in instances for name in drawn.items[instance]]
    right = np.concatenate([drawn.right[instance][0] for instance in instances], axis=-1)
    weight = np.concatenate([np.full(len(drawn.items[i]), 1 / len(drawn.items[i])) for i in instances])
    unit = numbered(drawn.units, names)

    def sums(answered: np.ndarray) -> np.ndarray:
        return np.stack([per_unit(answered.sum(0) * weight, unit), per_unit(weight, unit)])[..., None]

    p, least = exchange_p(right[:ours], right[ours:], sums)[:, 0].tolist()
    return p, least


def _metrics_of(scores: dict) -> dict[str, dict]:
    overall = scores["overall"]
    return scores["dimensions"] | ({overall["name"]: overall} if "value" in overall else {})
