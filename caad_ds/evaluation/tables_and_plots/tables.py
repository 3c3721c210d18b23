"""Shared parts of the tables of `evaluate` and `compare`, the rows of one system, and printing."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from caad_ds.evaluation.benchmarks.benchmark import CONDITIONS, HINTS
from caad_ds.evaluation.scoring.bootstrap_scores import POOLED, RULES
from caad_ds.utils.fault_list import EXAMPLES, Faults
from caad_ds.utils.formatting import counted
from caad_ds.utils.terminal_table import Table

UNWRAPPED = 240
LEGEND = (
    "Conditions: no hint (neutral), a true one, a false one, one about something else. shift: right answers lost to "
    "the false hint, of those right without it (the CAAD authors' TIR_adv); tir_all: of all items (MCR-BENCH's TIR)."
)
SUBSET_LEGEND = (
    "MRS: 0.8 adversarial / neutral + 0.2 irrelevant / neutral (MCR-BENCH); "
    "strict: neutral, answers that name one option alone; lenient: the same, also in brackets, numbers in words, units."
)
NO_INTERVAL = (
    "95% intervals: bootstrap over clips; where it knows no spread (few clips, all answers alike), Wilson's for shares "
    "of items, and - for all else."
)
MAIN = {**{c: f"accuracy_{c}" for c in CONDITIONS}, "shift": "shift", "tir_all": "tir_all_adversarial"}
FIGURES = {**MAIN, **{f"NormAcc {c}": f"norm_accuracy_{c}" for c in HINTS}, "MRS": "mrs"}


def percent(value: float | None) -> str:
    """Return a share as a percentage with one decimal; `-` if undefined."""
    return "-" if value is None else f"{100 * value:.1f}"


def with_deviation(metric: dict) -> str:
    """Return `mean ± deviation` over runs, the value alone for one run."""
    deviation = metric["deviation"]
    return percent(metric["value"]) + ("" if deviation is None else f" ± {percent(deviation)}")


def with_interval(metric: dict) -> str:
    """Return `value [low, high]` with the interval over items."""
    return f"{percent(metric['value'])} [{percent(metric['low'])}, {percent(metric['high'])}]"


def p_value(p: float | None) -> str:
    """Return p with three decimals; `-` if there is none."""
    return "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def scores_rows(groups: dict) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of one system: a row per subset, then all items with the interval of each metric below."""
    metrics, rows = [*MAIN.values(), "mrs"], []
    for subset in [*(name for name in groups if name != POOLED), POOLED]:
        scores = groups[subset]
        cells = [scores[key] for key in metrics] + [scores[rule]["accuracy_neutral"] for rule in RULES[1:]]
        rows.append([subset, str(scores["items"]), *(percent(cell["value"]) for cell in cells)])
    rows += [[bound, "", *(percent(cell[bound]) for cell in cells)] for bound in ("low", "high")]
    return ["subset", "items", *MAIN, "MRS", *RULES[1:]], rows


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def show(*parts: Table | str) -> None:
    """Print to standard output, as wide as the terminal or COLUMNS, or UNWRAPPED if there is neither."""
    console = Console(highlight=False)  # its width is that of COLUMNS where that is set
    if not console.is_terminal and not os.environ.get("COLUMNS", "").isdigit():
        console.width = UNWRAPPED
    for part in parts:
        for printed in part.fitted(console.width) if isinstance(part, Table) else [part]:
            console.print(printed, markup=False)


def show_rejected(rejected: list[dict], file: Path | None) -> None:
    """Print to standard error the rows that were left out; if there are many, the first ones and the file of all."""
    _name_rows(rejected, ("row was left out", "rows were left out"), file)


def show_doubtful(doubtful: list[dict], file: Path | None) -> None:
    """Print to standard error the rows with audio that a rule (usable_audio.py) finds unusable."""
    label = "asked about audio that training would not take"
    _name_rows(doubtful, (f"row is {label}", f"rows are {label}"), file)


def show_silent(silent: list[dict], file: Path | None) -> None:
    """Print to standard error the items whose audio cannot be played."""
    _name_rows(silent, ("item has no player", "items have no player"), file)


def _name_rows(rows: list[dict], labels: Sequence[str], file: Path | None) -> None:
    """Print to standard error the number of rows with a label (singular, plural), and each reason.

    If there are many and `file` lists all, only some are printed.
    """
    if not rows:
        return
    lines = [counted(len(rows), *labels) + (f" (all in {file})" if file else "") + ":"]
    lines += [f"  {row['id']}: {row['reason']}" for row in rows]
    if file and len(rows) > EXAMPLES:
        faults = Faults()
        for row in rows:
            faults.add(row["id"], row["reason"])
        lines = faults.lines(labels[1], file)
    print("\n".join(lines), file=sys.stderr)
