"""Confusion tables by attribute: the option named versus the right one, for answers without a hint."""

from collections.abc import Iterable, Sequence
from typing import Any

from caad_ds.evaluation.benchmarks.benchmark import Benchmark
from caad_ds.evaluation.scoring.matching import named
from caad_ds.evaluation.tables_and_plots.tables import markdown
from caad_ds.utils.terminal_table import Table

MOST = 12  # options; open questions have hundreds of answers, too many for a table
OTHER = "none or several"
LEGEND = f"Named by neutral answers, by the rule lenient, marks of options read; {OTHER}: no option, or more than one."


def confusions(benchmark: Benchmark, predictions: Iterable[dict]) -> dict[str, dict]:
    """Return, for each subset with at most MOST options, `options` and `counts` of the predictions without a hint.

    `counts` has a row per right option and a column per named option, the last one for OTHER.
    """
    questions = {item.id: (item.question, item.choices) for item in benchmark.items}
    found: dict[str, dict[str, Any]] = {
        subset: {"options": options, "counts": [[0] * (len(options) + 1) for _ in options]}
        for subset, options in benchmark.options.items()
        if 1 < len(options) <= MOST
    }
    for prediction in predictions:
        table = found.get(prediction["subset"])
        if table is None or prediction["condition"] != benchmark.conditions[0]:
            continue
        options = table["options"]
        option = named(prediction["prediction"], tuple(options), *questions[prediction["id"]])
        column = len(options) if option is None else options.index(option)
        table["counts"][options.index(prediction["gt"])][column] += 1
    return {subset: table for subset, table in found.items() if any(map(any, table["counts"]))}


def summed(tables: Sequence[dict[str, dict]]) -> dict[str, dict]:
    """Return the summed counts of several runs."""
    first, *others = tables
    return {
        subset: {
            "options": table["options"],
            "counts": [
                [sum(cells) for cells in zip(*rows, strict=True)]
                for rows in zip(table["counts"], *(other[subset]["counts"] for other in others), strict=True)
            ],
        }
        for subset, table in first.items()
        if all(subset in other for other in others)
    }


def on_terminal(tables: dict[str, dict]) -> list[Table]:
    """Return a terminal table per subset."""
    return [Table(f"{subset}: options named", *_rows(table)) for subset, table in tables.items()]


def in_markdown(name: str, tables: dict[str, dict]) -> list[str]:
    """Return a title and a Markdown table per subset, for one system."""
    found = []
    for subset, table in tables.items():
        found += [f"{name}, {subset}: options named", markdown(*_rows(table))]
    return found


def _rows(table: dict) -> tuple[list[str], list[list[str]]]:
    rows = [[gt, *map(str, counts)] for gt, counts in zip(table["options"], table["counts"], strict=True)]
    return ["right", *table["options"], OTHER], rows
