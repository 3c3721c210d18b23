"""`caad-ds compare` of Dynamic-SUPERB runs: a row per system, a column per dimension and ALL."""

from pathlib import Path

from caad_ds.evaluation.benchmarks.dynamic_superb.dynamic_superb import DynamicSuperb
from caad_ds.evaluation.benchmarks.dynamic_superb.dynamic_superb_scores import differences, score_instances
from caad_ds.evaluation.comparison.result import Comparison
from caad_ds.evaluation.predictions import RunFolder
from caad_ds.evaluation.report.comparison_plots import bars
from caad_ds.evaluation.report.tables import (
    NO_INTERVAL,
    SIGNIFICANT,
    difference_rows,
    interval_rows,
    markdown,
    significance_legend,
    with_deviation,
)
from caad_ds.utils.progress import progress

NOTE = "Percentages; ± is the sample deviation over runs of one name (seeds)."


def is_dynamic_superb(run: Path) -> bool:
    """Whether a finished run is of this benchmark."""
    return RunFolder(run).read_scores()["setup"].get("benchmark") == DynamicSuperb.kind


def compare_dimensions(runs: dict[str, list[list[dict]]], baseline: str, title: str, complete: bool) -> Comparison:
    """Of the runs of each name: dimensions and ALL, each tested against the baseline's.

    `complete` says that the runs are on every row of the benchmark.
    """
    systems = {}
    with progress("comparing", len(runs)) as advance:
        for name, predictions in runs.items():
            systems[name] = score_instances(predictions, complete=complete)
            advance(1)
    with progress(f"differences from {baseline}"):
        found = differences(runs, baseline, complete=complete)
    figures = {name: _figures(scores) for name, scores in systems.items()}
    rows = [_row(name, systems[name]["runs"], figures[name], found.get(name, {})) for name in systems]
    details = [NO_INTERVAL, markdown(*interval_rows(figures))]
    if found:
        details += [f"Differences from {baseline}, in points:", markdown(*difference_rows(found))]
    legends = [NOTE, *([significance_legend(baseline, found)] if found else [])]
    table = ["system", "runs", *figures[baseline]], rows
    pictures = {"table.png": lambda file: bars(figures, title, file)}
    return Comparison(title, baseline, systems, figures, found, table, legends, details, pictures)


def _figures(scores: dict) -> dict[str, dict]:
    overall = scores["overall"]
    return scores["dimensions"] | ({overall["name"]: overall} if "value" in overall else {})


def _row(name: str, runs: int, figures: dict[str, dict], differences: dict[str, dict]) -> list[str]:
    marks = [SIGNIFICANT if differences.get(figure, {}).get("significant") else "" for figure in figures]
    cells = [with_deviation(figure) for figure in figures.values()]
    return [name, str(runs), *(cell + mark for cell, mark in zip(cells, marks, strict=True))]
