"""`caad-ds compare` of runs without conditions: the metrics of all items, and the accuracy of each group."""

from caad_ds.evaluation.comparison.result import Comparison
from caad_ds.evaluation.comparison.run_folders import Runs
from caad_ds.evaluation.result_kinds.group_metrics import GroupMetrics
from caad_ds.evaluation.scoring.bootstrap_scores import POOLED, score_groups
from caad_ds.evaluation.scoring.significance import differences
from caad_ds.evaluation.tables_and_plots.comparison_plots import bars
from caad_ds.evaluation.tables_and_plots.comparison_tables import (
    NOTE,
    difference_rows,
    interval_rows,
    significance_legend,
    system_row,
)
from caad_ds.evaluation.tables_and_plots.confusions import LEGEND as NAMED
from caad_ds.evaluation.tables_and_plots.confusions import in_markdown, summed
from caad_ds.evaluation.tables_and_plots.tables import NO_INTERVAL, markdown
from caad_ds.utils.progress import progress

ACCURACY = "accuracy"


def compare_groups(read: Runs, baseline: str, title: str) -> Comparison:
    """Compare runs on a described benchmark by its metrics over all items and the accuracy of each group."""
    kind, systems = read.result_kind, {}
    assert isinstance(kind, GroupMetrics)
    with progress("comparing", sum(map(len, read.systems.values()))) as advance:
        for name, runs in read.systems.items():
            systems[name] = score_groups(runs, metrics=kind.metrics)
            advance(len(runs))
    with progress(f"differences from {baseline}"):
        found = differences(read.systems, baseline, metrics=kind.metrics)
    metrics = {name: _labelled(groups, kind) for name, groups in systems.items()}
    tested = {name: _labelled(groups, kind) for name, groups in found.items()}
    rows = [system_row(name, systems[name][POOLED]["runs"], metrics[name], tested.get(name, {})) for name in systems]
    details = [NO_INTERVAL, markdown(*interval_rows(metrics))]
    if found:
        details += [f"Differences from {baseline}, in points:", markdown(*difference_rows(tested))]
    named = [part for name, tables in read.confusions.items() for part in in_markdown(name, summed(tables))]
    details += [NAMED, *named] if named else []
    legends = [*kind.legend, NOTE, *([significance_legend(baseline, tested)] if found else [])]
    table = ["system", "runs", *metrics[baseline]], rows
    pictures = {"table.png": lambda file: bars(metrics, title, file)}
    return Comparison(title, baseline, systems, metrics, found, table, legends, details, pictures, metrics, tested)


def _labelled(groups: dict[str, dict], kind: GroupMetrics) -> dict[str, dict]:
    """Return the metrics of all items by label, then the accuracy of each group if there are several.

    A group with the name of a metric ("yes") gets the label "yes (group)".
    """
    found = {label: groups[POOLED][key] for label, key in kind.shown.items()}
    names = [name for name in groups if name != POOLED]
    taken = {*found, *names}
    for name in names if len(names) > 1 else ():
        label = name
        while label in found or (label != name and label in taken):
            label += " (group)"
        found[label] = groups[name][ACCURACY]
    return found
