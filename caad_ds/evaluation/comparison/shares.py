"""`caad-ds compare` of runs whose items are asked once: the figures of all items, and the accuracy of each group."""

from caad_ds.evaluation.comparison.result import Comparison
from caad_ds.evaluation.comparison.run_folders import Runs
from caad_ds.evaluation.figures.shares import Shares
from caad_ds.evaluation.report.comparison_plots import bars
from caad_ds.evaluation.report.comparison_tables import SIGNIFICANT, difference_rows, interval_rows, significance_legend
from caad_ds.evaluation.report.confusions import LEGEND as NAMED
from caad_ds.evaluation.report.confusions import in_markdown, summed
from caad_ds.evaluation.report.tables import NO_INTERVAL, markdown, with_deviation
from caad_ds.evaluation.scoring.scores import POOLED, score_groups
from caad_ds.evaluation.scoring.significance import differences
from caad_ds.utils.progress import progress

NOTE = "Percentages; ± is the sample deviation over runs of one name (seeds)."
ACCURACY = "accuracy"


def compare_shares(read: Runs, baseline: str, title: str, shares: Shares) -> Comparison:
    """Of runs on a described benchmark: its figures over all items, and the accuracy of each group."""
    systems = {}
    with progress("comparing", sum(map(len, read.systems.values()))) as advance:
        for name, runs in read.systems.items():
            systems[name] = score_groups(runs, metrics=shares.metrics)
            advance(len(runs))
    with progress(f"differences from {baseline}"):
        found = differences(read.systems, baseline, metrics=shares.metrics)
    figures = {name: _labelled(groups, shares) for name, groups in systems.items()}
    tested = {name: _labelled(groups, shares) for name, groups in found.items()}
    rows = [_row(name, systems[name][POOLED]["runs"], figures[name], tested.get(name, {})) for name in systems]
    details = [NO_INTERVAL, markdown(*interval_rows(figures))]
    if found:
        details += [f"Differences from {baseline}, in points:", markdown(*difference_rows(tested))]
    named = [part for name, tables in read.confusions.items() for part in in_markdown(name, summed(tables))]
    details += [NAMED, *named] if named else []
    legends = [*shares.legend, NOTE, *([significance_legend(baseline, tested)] if found else [])]
    table = ["system", "runs", *figures[baseline]], rows
    pictures = {"table.png": lambda file: bars(figures, title, file)}
    return Comparison(title, baseline, systems, figures, found, table, legends, details, pictures, figures, tested)


def _labelled(groups: dict[str, dict], shares: Shares) -> dict[str, dict]:
    """The figures of all items by their labels, then the accuracy of each group where there are several."""
    pooled = {label: groups[POOLED][key] for label, key in shares.shown.items()}
    each = {name: group[ACCURACY] for name, group in groups.items() if name != POOLED}
    return pooled | (each if len(each) > 1 else {})


def _row(name: str, runs: int, figures: dict[str, dict], tested: dict[str, dict]) -> list[str]:
    marks = [SIGNIFICANT if tested.get(label, {}).get("significant") else "" for label in figures]
    cells = [with_deviation(figure) for figure in figures.values()]
    return [name, str(runs), *(cell + mark for cell, mark in zip(cells, marks, strict=True))]
