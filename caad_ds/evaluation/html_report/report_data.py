"""The data of a report page as one JSON value: tables, and the questions, answers and verdicts of all items.

Texts are stored once in `texts` and referenced by index; item data is stored by column, so that a page with ten
thousand items loads quickly.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from caad_ds.evaluation.benchmarks.benchmark import CONDITIONS
from caad_ds.evaluation.benchmarks.items import Item
from caad_ds.evaluation.comparison.result import BY_ATTRIBUTE, Comparison
from caad_ds.evaluation.scoring.matching import RULES
from caad_ds.evaluation.speed.speed_tables import SIZE_LEGEND, size_rows
from caad_ds.evaluation.tables_and_plots.comparison_tables import difference_rows
from caad_ds.evaluation.tables_and_plots.tables import percent, with_deviation

ABSENT = -1
NEUTRAL, _, FALSE_HINT, _ = CONDITIONS
# The folders of an absolute path; its parts may contain spaces, but no colon or quote.
FOLDERS = re.compile(r"""(?<![^\s'"(])/(?=\S)(?:[^/\n'":]+/+)*""")


def without_folders(text: str) -> str:
    """Replace absolute paths in a text by file names: readers of the page have other folders."""
    return FOLDERS.sub("", text)


@dataclass
class Texts:
    """Distinct texts with their indices."""

    number: dict[str, int] = field(default_factory=dict)

    def of(self, text: str | None) -> int:
        """Return the index of a text; ABSENT for None."""
        return ABSENT if text is None else self.number.setdefault(text, len(self.number))


@dataclass(frozen=True)
class Run:
    """One run of a system: its folder's name, and its answers by id and condition."""

    system: str
    folder: str
    predictions: list[dict]


def page_data(
    found: Comparison, runs: Sequence[Run], items: Sequence[Item], clips: dict[str, list[str | None]],
    silent: dict[str, list[str | None]], tokens: list[dict], notes: Sequence[str],
) -> dict:  # fmt: skip
    """Return all data that the page's script reads, except the audio.

    Args:
        found: the comparison of these runs.
        runs: grouped by system, in the systems' order.
        items: items that all runs answered; the conditions of a row are adjacent.
        clips: names of each item's audio by id; None for a clip without a player.
        silent: for items with such clips, by id, the reason for each clip without a player, else None.
        tokens: result of `read_tokens`.
        notes: shown below the table, after those of the comparison.
    """
    texts = Texts()
    rows: dict[str, dict[str | None, Item]] = {}
    for item in items:
        rows.setdefault(item.id, {})[item.condition] = item
    conditions = list(next(iter(rows.values())))
    first = [next(iter(row.values())) for row in rows.values()]
    subsets = list(dict.fromkeys(item.subset for item in first))
    answers = [{(p["id"], p["condition"]): p for p in run.predictions} for run in runs]
    rules = [rule for rule in RULES if all(rule in p for run in runs for p in run.predictions)]
    return {
        "title": found.title,
        "baseline": found.baseline,
        "notes": [*found.legends, *map(without_folders, [*found.notes, *notes])],
        "scores": _scores(found),
        "tables": _tables(found),
        "conditions": conditions,
        "flips": _flips(conditions),
        "rules": rules,
        "subsets": subsets,
        "systems": list(found.systems),
        "runs": [{"system": run.system, "folder": run.folder} for run in runs],
        "items": {
            "id": list(rows),
            "subset": [subsets.index(item.subset) for item in first],
            "question": [texts.of(item.question) for item in first],
            "gt": [texts.of(item.gt) for item in first],
            "hint": [[texts.of(row[condition].hint) for row in rows.values()] for condition in conditions],
            "audio": [clips[name] for name in rows],
        },
        "answers": [
            [[texts.of(run[name, condition]["prediction"]) for name in rows] for condition in conditions]
            for run in answers
        ],
        "verdicts": [
            [["".join("01"[bool(run[n, c][rule])] for n in rows) for c in conditions] for rule in rules]
            for run in answers
        ],
        "silent": {
            name: [reason and without_folders(reason) for reason in reasons] for name, reasons in silent.items()
        },
        "tokens": tokens,
        "texts": list(texts.number),
    }


def _flips(conditions: Sequence[str | None]) -> dict | None:
    """Return the indices of the neutral and the adversarial condition; None unless both exist."""
    if not {NEUTRAL, FALSE_HINT} <= set(conditions):
        return None
    return {"before": conditions.index(NEUTRAL), "after": conditions.index(FALSE_HINT)}


def _scores(found: Comparison) -> dict:
    """Return the table of all metrics with intervals; cells that differ significantly from the baseline are marked."""
    columns = list(next(iter(found.columns.values())))
    rows = []
    for name, figures in found.columns.items():
        tested = found.tested.get(name, {})
        cells = [
            {
                "text": with_deviation(figure),
                "interval": None if figure["low"] is None else f"{percent(figure['low'])} to {percent(figure['high'])}",
                "marked": bool(tested.get(column, {}).get("significant")),
            }
            for column, figure in figures.items()
        ]
        rows.append({"name": name, "runs": found.runs[name], "cells": cells})
    return {"columns": columns, "rows": rows}


def _tables(found: Comparison) -> list[dict]:
    """Return further tables with their titles."""
    tables = []
    if found.by_attribute:
        tables.append((BY_ATTRIBUTE, *found.by_attribute, ""))
    if found.tested:
        header, rows = difference_rows(found.tested)
        tables.append((f"Differences from {found.baseline}, in points", header, rows, ""))
    if found.speeds:
        tables.append(("Size", *size_rows(found.speeds), SIZE_LEGEND))
    return [dict(zip(("title", "header", "rows", "legend"), table, strict=True)) for table in tables]
