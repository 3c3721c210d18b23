"""`caad-ds compare` of runs with conditions: accuracy under each, shift, and the effect of the false hint."""

from math import inf

from caad_ds.evaluation.comparison.neutral import by_attribute, commonest_labels, neutral_notes
from caad_ds.evaluation.comparison.result import Comparison
from caad_ds.evaluation.comparison.run_folders import Runs
from caad_ds.evaluation.scoring.bootstrap_scores import POOLED, metrics_of_each_run, score_groups
from caad_ds.evaluation.scoring.significance import differences
from caad_ds.evaluation.tables_and_plots.comparison_plots import bars, flip_matrices
from caad_ds.evaluation.tables_and_plots.comparison_tables import (
    NOTE,
    comparison_rows,
    difference_rows,
    interval_rows,
    significance_legend,
)
from caad_ds.evaluation.tables_and_plots.confusions import LEGEND as NAMED
from caad_ds.evaluation.tables_and_plots.confusions import in_markdown, summed
from caad_ds.evaluation.tables_and_plots.tables import FIGURES, LEGEND, MAIN, NO_INTERVAL, markdown
from caad_ds.evaluation.tables_and_plots.trade_off_plot import trade_off
from caad_ds.utils.progress import progress

BARS = {"shift (lower is better)" if name == "shift" else name: key for name, key in MAIN.items() if name != "tir_all"}
TOGETHER = f"{NOTE} Read neutral, faithful, adversarial and shift together: none of them decides alone."
INTERVALS = (
    f"{NO_INTERVAL} Clips of one of few voices are not independent: for new voices the uncertainty is larger than "
    "these intervals say, and differences are less certain than their p values."
)


def compare_conditions(read: Runs, baseline: str, title: str) -> Comparison:
    """Compare runs on a benchmark in MCR-BENCH's format: conditions, shift, and the effect of the false hint."""
    runs, systems = read.systems, {}
    with progress("comparing", sum(map(len, runs.values()))) as advance:
        for name, predictions in runs.items():
            systems[name] = score_groups(predictions)
            advance(len(predictions))
    with progress(f"differences from {baseline}"):
        found = differences(runs, baseline)
    seeds = {name: metrics_of_each_run(predictions) for name, predictions in runs.items()}
    details = [INTERVALS, markdown(*interval_rows(_pooled(systems, FIGURES)))]
    commonest = commonest_labels(next(iter(runs.values()))[0])
    legends = [LEGEND, TOGETHER, *neutral_notes(systems, baseline, commonest[POOLED])]
    if found:
        pooled = _pooled(found, {**MAIN, "MRS": "mrs"})
        details += [f"Differences from {baseline}, in points:", markdown(*difference_rows(pooled))]
        legends.append(significance_legend(baseline, {name: pooled[name] | _by_subset(found[name]) for name in found}))
    named = [part for name, tables in read.confusions.items() for part in in_markdown(name, summed(tables))]
    details += [NAMED, *named] if named else []
    by_shift = dict(sorted(systems.items(), key=lambda system: _or_last(system[1][POOLED]["shift"]["value"])))
    pictures = {
        "table.png": lambda file: bars(_pooled(by_shift, BARS), f"{title}, by shift", file),
        "flips.png": lambda file: flip_matrices(systems, title, file),
        "tradeoff.png": lambda file: trade_off(
            {n: groups[POOLED] for n, groups in systems.items()}, seeds, title, file
        ),
    }
    table = comparison_rows(systems, found)
    logged = _pooled(systems, {key: key for key in FIGURES.values()})
    attributes = by_attribute(systems, commonest)
    figures, tested = ({name: _labelled(groups) for name, groups in part.items()} for part in (systems, found))
    return Comparison(
        title, baseline, systems, logged, found, table, legends, details, pictures, figures, tested, attributes
    )


def _labelled(groups: dict[str, dict]) -> dict[str, dict]:
    """Return a system's metrics, or differences, by column name: of all items, and of each subset."""
    return {label: groups[POOLED][key] for label, key in FIGURES.items()} | _by_subset(groups)


def _or_last(shift: float | None) -> float:
    """Return the sort key of a shift; undefined ones come last."""
    return inf if shift is None else shift


def _pooled(systems: dict[str, dict], figures: dict[str, str]) -> dict[str, dict[str, dict]]:
    """Return metrics or differences of all items together, by system and label."""
    return {name: {label: groups[POOLED][key] for label, key in figures.items()} for name, groups in systems.items()}


def _by_subset(differences: dict[str, dict]) -> dict[str, dict]:
    """Return the table's column of each subset, by column name."""
    return {f"{name} adv": group["accuracy_adversarial"] for name, group in differences.items() if name != POOLED}
