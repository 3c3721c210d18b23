"""What `compare` found, whatever the benchmark, and its way to the terminal, the files and MLflow."""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from caad_ds.evaluation.report.mlflow_log import Record, log_record, output_folder
from caad_ds.evaluation.report.tables import markdown, show
from caad_ds.evaluation.speed.figures import SIZE_LEGEND, size_rows
from caad_ds.utils.files import write_atomic, write_json
from caad_ds.utils.terminal_table import Table

BY_ATTRIBUTE = "Neutral accuracy by attribute"


@dataclass(frozen=True)
class Comparison:
    """Scores by system, differences from the baseline, the table that is shown, and what the files hold beside it.

    `figures` are those of each system that are metrics in MLflow, by name, `{value, low, high, ...}` each.
    `details` are further parts of table.md; `pictures` draw themselves, by file name. `by_attribute` is a second table,
    of neutral accuracy.
    """

    title: str
    baseline: str
    systems: dict[str, dict]
    figures: dict[str, dict[str, dict]]
    differences: dict[str, dict]
    table: tuple[list[str], list[list[str]]]
    legends: list[str]
    details: list[str]
    pictures: dict[str, Callable[[Path], None]]
    by_attribute: tuple[list[str], list[list[str]]] | None = None


def publish(found: Comparison, speeds: dict[str, dict], notes: list[str], args: argparse.Namespace) -> None:
    """Prints the tables, `notes` on the runs below; saves all with `args.out` and logs it with `args.mlflow`."""
    show(Table(found.title, *found.table), *found.legends, *notes)
    if found.by_attribute:
        show(Table(BY_ATTRIBUTE, *found.by_attribute))
    if speeds:
        show(Table("Size", *size_rows(speeds)), SIZE_LEGEND)
    files = ["table.json", "table.md", *found.pictures]
    with output_folder(args.out) as folder:
        if args.out or args.mlflow:
            _save(found, speeds, notes, folder)
        if args.out:
            show(f"saved {args.out}/{', '.join(files)}")
        params = {"title": found.title, "baseline": found.baseline, "systems": ", ".join(found.systems)}
        metrics = {f"{system}/{name}": figure["value"] for system, name, figure in _figures(found)}
        tables = {"table_shown.json": found.table}
        log_record(
            args, folder, Record(found.title, params, metrics, tables, [folder / f for f in files], "comparison")
        )


def _figures(found: Comparison) -> Iterator[tuple[str, str, dict]]:
    """System, name and figure, of those that are defined."""
    for system, figures in found.figures.items():
        yield from ((system, name, figure) for name, figure in figures.items() if figure["value"] is not None)


def _save(found: Comparison, speeds: dict[str, dict], notes: list[str], folder: Path) -> None:
    text = [f"# {found.title}", markdown(*found.table), *found.legends, *notes]
    text += [f"{BY_ATTRIBUTE}:", markdown(*found.by_attribute)] if found.by_attribute else []
    text += found.details
    text += [markdown(*size_rows(speeds)), SIZE_LEGEND] if speeds else []
    figures = {"systems": found.systems, "baseline": found.baseline, "differences": found.differences}
    figures |= {"speed": speeds, "legends": found.legends, "notes": notes}
    write_json(folder / "table.json", {"title": found.title, **figures})
    write_atomic(folder / "table.md", ("\n\n".join(text) + "\n").encode())
    for name, draw in found.pictures.items():
        draw(folder / name)
