"""The result of `compare`, and its output to the terminal, files and MLflow."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from caad_ds.evaluation.speed.speed_tables import SIZE_LEGEND, size_rows
from caad_ds.evaluation.tables_and_plots.csv_and_latex import csv_table, latex_table
from caad_ds.evaluation.tables_and_plots.mlflow_log import Record, Store, log_record
from caad_ds.evaluation.tables_and_plots.tables import markdown, show
from caad_ds.utils.files import write_atomic, write_json
from caad_ds.utils.terminal_table import Table

BY_ATTRIBUTE = "Neutral accuracy by attribute"


@dataclass(frozen=True)
class Comparison:
    """Scores by system, differences from the baseline, the displayed table, and the contents of the files.

    `metrics` holds each system's metrics for MLflow by name, `{value, low, high, ...}` each. `details` are further
    parts of table.md; `pictures` holds drawing functions by file name. `columns` are the metrics of each system by
    column name, `tested` their differences from the baseline. `by_attribute` is a second table, of neutral accuracy.
    `runs` is the number of runs, `speeds` the measured speed by system; `notes` concern the runs; `rejected` counts the
    rows that a run could not use.
    """

    title: str
    baseline: str
    systems: dict[str, dict]
    metrics: dict[str, dict[str, dict]]
    differences: dict[str, dict]
    table: tuple[list[str], list[list[str]]]
    legends: list[str]
    details: list[str]
    pictures: dict[str, Callable[[Path], None]]
    columns: dict[str, dict[str, dict]]
    tested: dict[str, dict[str, dict]]
    by_attribute: tuple[list[str], list[list[str]]] | None = None
    runs: dict[str, int] = field(default_factory=dict)
    speeds: dict[str, dict] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    rejected: dict[Path, int] = field(default_factory=dict)

    @property
    def files(self) -> list[str]:
        """Names of the files that `save` writes."""
        return ["table.json", "table.md", "table.csv", "table.tex", *self.pictures]


def show_comparison(found: Comparison) -> None:
    """Print the tables, with the notes on the runs below the first."""
    show(Table(found.title, *found.table), *found.legends, *found.notes)
    if found.by_attribute:
        show(Table(BY_ATTRIBUTE, *found.by_attribute))
    if found.speeds:
        show(Table("Size", *size_rows(found.speeds)), SIZE_LEGEND)


def log_comparison(store: Store | None, folder: Path, found: Comparison) -> None:
    """Log a comparison whose files are in `folder`, if there is a store."""
    params = {"title": found.title, "baseline": found.baseline, "systems": ", ".join(found.systems)}
    metrics = {f"{system}/{name}": scores["value"] for system, name, scores in _defined_metrics(found)}
    files = [folder / name for name in found.files]
    log_record(
        store, folder, Record(found.title, params, metrics, {"table_shown.json": found.table}, files, "comparison")
    )


def _defined_metrics(found: Comparison) -> Iterator[tuple[str, str, dict]]:
    """Yield system, name and scores of all defined metrics."""
    for system, metrics in found.metrics.items():
        yield from ((system, name, scores) for name, scores in metrics.items() if scores["value"] is not None)


def save(found: Comparison, folder: Path) -> None:
    """Write table.json, table.md, table.csv, table.tex and the pictures."""
    text = [f"# {found.title}", markdown(*found.table), *found.legends, *found.notes]
    text += [f"{BY_ATTRIBUTE}:", markdown(*found.by_attribute)] if found.by_attribute else []
    text += found.details
    text += [markdown(*size_rows(found.speeds)), SIZE_LEGEND] if found.speeds else []
    figures = {"systems": found.systems, "baseline": found.baseline, "differences": found.differences}
    figures |= {"speed": found.speeds, "legends": found.legends, "notes": found.notes}
    write_json(folder / "table.json", {"title": found.title, **figures})
    write_atomic(folder / "table.md", ("\n\n".join(text) + "\n").encode())
    write_atomic(folder / "table.csv", csv_table(found.runs, found.columns, found.tested).encode())
    write_atomic(folder / "table.tex", latex_table(*found.table).encode())
    for name, draw in found.pictures.items():
        draw(folder / name)
