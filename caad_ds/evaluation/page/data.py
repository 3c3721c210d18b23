"""What a page shows, as one JSON value: tables, and of every item what was asked, answered and judged.

Texts stand once in `texts` and are named by their number; what belongs to items is by column, in the items' order, so
that ten thousand of them are read in a moment.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from caad_ds.evaluation.benchmarks.benchmark import CONDITIONS
from caad_ds.evaluation.benchmarks.items import Item
from caad_ds.evaluation.comparison.result import BY_ATTRIBUTE, Comparison
from caad_ds.evaluation.report.comparison_tables import difference_rows
from caad_ds.evaluation.report.tables import percent, with_deviation
from caad_ds.evaluation.scoring.matching import RULES
from caad_ds.evaluation.speed.figures import SIZE_LEGEND, size_rows

ABSENT = -1
NEUTRAL, _, FALSE_HINT, _ = CONDITIONS
# An absolute path up to its last part, which a space may be in, but no colon or quote.
FOLDERS = re.compile(r"""(?<![^\s'"(])/(?=\S)(?:[^/\n'":]+/+)*""")


def without_folders(text: str) -> str:
    """A text in which paths are names: whoever reads the page has other folders."""
    return FOLDERS.sub("", text)


@dataclass
class Texts:
    """Texts by number, each once."""

    number: dict[str, int] = field(default_factory=dict)

    def of(self, text: str | None) -> int:
        """The number of a text; ABSENT for none."""
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
    """All that the page's script reads but the audio.

    Args:
        found: the comparison of these runs.
        runs: in the systems' order, those of a system one after the other.
        items: that all runs answered, the conditions of a row together.
        clips: by id the names of its audio; None for one that has no player.
        silent: by id of those items, why each clip has none; None for one that has a player.
        tokens: of `read_tokens`.
        notes: to be shown below the table, beside the comparison's.
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
        "silent": {name: [reason and without_folders(reason) for reason in each] for name, each in silent.items()},
        "tokens": tokens,
        "texts": list(texts.number),
    }


def _flips(conditions: Sequence[str | None]) -> dict | None:
    """The numbers of the conditions without a hint and with the false one; None where not both were asked."""
    if not {NEUTRAL, FALSE_HINT} <= set(conditions):
        return None
    return {"before": conditions.index(NEUTRAL), "after": conditions.index(FALSE_HINT)}


def _scores(found: Comparison) -> dict:
    """The table of all figures with their intervals; a cell that differs from the baseline's is marked."""
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
    """Further tables, under their titles."""
    tables = []
    if found.by_attribute:
        tables.append((BY_ATTRIBUTE, *found.by_attribute, ""))
    if found.tested:
        header, rows = difference_rows(found.tested)
        tables.append((f"Differences from {found.baseline}, in points", header, rows, ""))
    if found.speeds:
        tables.append(("Size", *size_rows(found.speeds), SIZE_LEGEND))
    return [dict(zip(("title", "header", "rows", "legend"), table, strict=True)) for table in tables]
