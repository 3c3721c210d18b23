"""`caad-ds compare`: several evaluations side by side, as tables and as pictures."""

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from pathlib import Path

from caad_ds.evaluation.commands.compare import TITLE
from caad_ds.evaluation.comparison.dynamic_superb_dimensions import compare_dimensions, is_dynamic_superb
from caad_ds.evaluation.comparison.neutral import by_attribute, commonest_labels, neutral_notes
from caad_ds.evaluation.comparison.result import Comparison, save
from caad_ds.evaluation.comparison.run_folders import read_runs, read_speeds
from caad_ds.evaluation.report.comparison_plots import bars, flip_matrices
from caad_ds.evaluation.report.comparison_tables import (
    comparison_rows,
    difference_rows,
    interval_rows,
    significance_legend,
)
from caad_ds.evaluation.report.confusions import LEGEND as NAMED
from caad_ds.evaluation.report.confusions import in_markdown, summed
from caad_ds.evaluation.report.tables import FIGURES, LEGEND, MAIN, NO_INTERVAL, markdown
from caad_ds.evaluation.report.trade_off_plot import trade_off
from caad_ds.evaluation.scoring.scores import POOLED, figures_of_each, score_groups
from caad_ds.evaluation.scoring.significance import differences
from caad_ds.utils.errors import UserError
from caad_ds.utils.paths import existing
from caad_ds.utils.progress import progress, waiting
from caad_ds.utils.wording import counted

BARS = {"shift (lower is better)" if name == "shift" else name: key for name, key in MAIN.items() if name != "tir_all"}
NOTE = (
    "Percentages; ± is the sample deviation over runs of one name (seeds). "
    "Read neutral, faithful, adversarial and shift together: none of them decides alone."
)
INTERVALS = (
    f"{NO_INTERVAL} Clips of one of few voices are not independent: for new voices the uncertainty is larger than "
    "these intervals say, and differences are less certain than their p values."
)


def compare(
    runs: Sequence[str | Path], *, baseline: str | None = None, out: str | Path | None = None, title: str = TITLE
) -> Comparison:
    """Compare finished evaluations of one benchmark, as `caad-ds compare` does.

    Args:
        runs: run folders of `evaluate`; those of one name are its seeds.
        baseline: name of the system that the others are tested against; None: the first.
        out: folder that table.json, table.md and the pictures are written to; None: nothing is written.
        title: of the table and the picture.

    Returns:
        Scores by system and differences from the baseline, with all that tables and pictures show of them.

    Raises:
        UserError: no run, one that is unfinished, runs that cannot stand side by side, or a baseline that is no run's.
    """
    if not runs:
        raise UserError("no run to compare; give run folders of `caad-ds evaluate`")
    folders = [existing(run) for run in runs]
    with waiting(f"reading {counted(len(folders), 'run')}"):
        read = read_runs(folders)
        speeds = read_speeds(folders)
    first = _baseline(baseline, list(read.systems))
    if is_dynamic_superb(folders[0]):
        title = "Dynamic-SUPERB" if title == TITLE else title
        found = compare_dimensions(read.systems, first, title, read.complete)
    else:
        found = compare_conditions(read.systems, first, title)
        named = [part for name, tables in read.confusions.items() for part in in_markdown(name, summed(tables))]
        found.details.extend([NAMED, *named] if named else [])
    runs_of = {name: len(predictions) for name, predictions in read.systems.items()}
    found = replace(found, runs=runs_of, speeds=speeds, notes=read.notes, rejected=read.rejected)
    if out is not None:
        save(found, Path(out))
    return found


def compare_conditions(runs: dict[str, list[list[dict]]], baseline: str, title: str) -> Comparison:
    """Of runs on a benchmark in MCR-BENCH's format: conditions, shift, and what the false hint changes."""
    systems = {}
    with progress("comparing", sum(map(len, runs.values()))) as advance:
        for name, predictions in runs.items():
            systems[name] = score_groups(predictions)
            advance(len(predictions))
    with progress(f"differences from {baseline}"):
        found = differences(runs, baseline)
    seeds = {name: figures_of_each(predictions) for name, predictions in runs.items()}
    details = [INTERVALS, markdown(*interval_rows(_pooled(systems, FIGURES)))]
    commonest = commonest_labels(next(iter(runs.values()))[0])
    legends = [LEGEND, NOTE, *neutral_notes(systems, baseline, commonest[POOLED])]
    if found:
        pooled = _pooled(found, {**MAIN, "MRS": "mrs"})
        details += [f"Differences from {baseline}, in points:", markdown(*difference_rows(pooled))]
        legends.append(significance_legend(baseline, {name: pooled[name] | _by_subset(found[name]) for name in found}))
    best = dict(sorted(systems.items(), key=lambda each: _or_last(each[1][POOLED]["shift"]["value"])))
    pictures = {
        "table.png": lambda file: bars(_pooled(best, BARS), f"{title}, by shift", file),
        "flips.png": lambda file: flip_matrices(systems, title, file),
        "tradeoff.png": lambda file: trade_off({n: each[POOLED] for n, each in systems.items()}, seeds, title, file),
    }
    table = comparison_rows(systems, found)
    logged = _pooled(systems, {key: key for key in FIGURES.values()})
    attributes = by_attribute(systems, commonest)
    figures, tested = ({name: _labelled(groups) for name, groups in each.items()} for each in (systems, found))
    return Comparison(
        title, baseline, systems, logged, found, table, legends, details, pictures, figures, tested, attributes
    )


def _labelled(groups: dict[str, dict]) -> dict[str, dict]:
    """A system's metrics, or differences, by the name of their column: of all items, and of each subset."""
    return {label: groups[POOLED][key] for label, key in FIGURES.items()} | _by_subset(groups)


def _or_last(shift: float | None) -> float:
    """What systems are sorted by; one without a right answer comes last."""
    return inf if shift is None else shift


def _pooled(systems: dict[str, dict], figures: dict[str, str]) -> dict[str, dict[str, dict]]:
    """By system and label, a metric or a difference of all items together."""
    return {name: {label: groups[POOLED][key] for label, key in figures.items()} for name, groups in systems.items()}


def _by_subset(differences: dict[str, dict]) -> dict[str, dict]:
    """What the table has of each subset, by its column."""
    return {f"{name} adv": each["accuracy_adversarial"] for name, each in differences.items() if name != POOLED}


def _baseline(asked: str | None, names: list[str]) -> str:
    if asked is not None and asked not in names:
        raise UserError(f"--baseline {asked}: no run has this name; give one of {', '.join(names)}")
    return asked if asked is not None else names[0]
