"""`caad-ds compare`: several evaluations side by side, as tables and as pictures."""

import argparse
import sys
from pathlib import Path

from caad_ds.evaluation.commands.compare import TITLE
from caad_ds.evaluation.comparison.dynamic_superb_dimensions import compare_dimensions, is_dynamic_superb
from caad_ds.evaluation.comparison.neutral import by_attribute, commonest_labels, neutral_notes
from caad_ds.evaluation.comparison.result import Comparison, publish
from caad_ds.evaluation.comparison.run_folders import read_runs
from caad_ds.evaluation.predictions import RunFolder
from caad_ds.evaluation.report.comparison_plots import bars, flip_matrices
from caad_ds.evaluation.report.confusions import LEGEND as NAMED
from caad_ds.evaluation.report.confusions import in_markdown, summed
from caad_ds.evaluation.report.tables import (
    FIGURES,
    LEGEND,
    MAIN,
    NO_INTERVAL,
    comparison_rows,
    difference_rows,
    interval_rows,
    markdown,
    significance_legend,
)
from caad_ds.evaluation.scoring.scores import POOLED, score_groups
from caad_ds.evaluation.scoring.significance import differences
from caad_ds.utils.command import ROWS_REJECTED
from caad_ds.utils.errors import UserError
from caad_ds.utils.progress import progress, waiting

BARS = {"shift (lower is better)" if name == "shift" else name: key for name, key in MAIN.items() if name != "tir_all"}
NOTE = (
    "Percentages; ± is the sample deviation over runs of one name (seeds). "
    "Read neutral, faithful, adversarial and shift together: none of them decides alone."
)
INTERVALS = (
    f"{NO_INTERVAL} Clips of one of few voices are not independent: for new voices the uncertainty is larger than "
    "these intervals say, and differences are less certain than their p values."
)


def run(args: argparse.Namespace) -> int:
    """Prints the table, a row per name in order of appearance; saves it and its pictures with --out.

    3 if a run could not use rows of its benchmark, else 0.
    """
    with waiting(f"reading {len(args.runs)} runs"):
        read = read_runs(args.runs)
        speeds = read_speeds(args.runs)
    baseline = _baseline(args.baseline, list(read.systems))
    if is_dynamic_superb(args.runs[0]):
        title = "Dynamic-SUPERB" if args.title == TITLE else args.title
        found = compare_dimensions(read.systems, baseline, title, read.complete)
    else:
        found = compare_conditions(read.systems, baseline, args.title)
        named = [part for name, tables in read.confusions.items() for part in in_markdown(name, summed(tables))]
        found.details.extend([NAMED, *named] if named else [])
    publish(found, speeds, read.notes, args)
    if read.rejected:
        partial = ", ".join(f"{count} rows left out in {path}" for path, count in read.rejected.items())
        print(f"caad-ds compare: not the whole benchmark: {partial}", file=sys.stderr)
    return ROWS_REJECTED if read.rejected else 0


def compare_conditions(runs: dict[str, list[list[dict]]], baseline: str, title: str) -> Comparison:
    """Of runs on a benchmark in MCR-BENCH's format: conditions, shift, and what the false hint changes."""
    systems = {}
    with progress("comparing", sum(map(len, runs.values()))) as advance:
        for name, predictions in runs.items():
            systems[name] = score_groups(predictions)
            advance(len(predictions))
    with progress(f"differences from {baseline}"):
        found = differences(runs, baseline)
    details = [INTERVALS, markdown(*interval_rows(_pooled(systems, FIGURES)))]
    commonest = commonest_labels(next(iter(runs.values()))[0])
    legends = [LEGEND, NOTE, *neutral_notes(systems, baseline, commonest[POOLED])]
    if found:
        pooled = _pooled(found, {**MAIN, "MRS": "mrs"})
        details += [f"Differences from {baseline}, in points:", markdown(*difference_rows(pooled))]
        legends.append(significance_legend(baseline, {name: pooled[name] | _by_subset(found[name]) for name in found}))
    pictures = {
        "table.png": lambda file: bars(_pooled(systems, BARS), title, file),
        "flips.png": lambda file: flip_matrices(systems, title, file),
    }
    table = comparison_rows(systems, found)
    logged = _pooled(systems, {key: key for key in FIGURES.values()})
    attributes = by_attribute(systems, commonest)
    return Comparison(title, baseline, systems, logged, found, table, legends, details, pictures, attributes)


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


def read_speeds(folders: list[Path]) -> dict[str, dict]:
    """What the first run of each name measured of its speed, of those that measured any."""
    found: dict[str, dict] = {}
    for path in folders:
        scores = RunFolder(path).read_scores()
        if scores.get("speed"):
            found.setdefault(scores["name"], scores["speed"])
    return found
