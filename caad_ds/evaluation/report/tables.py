"""The tables of `evaluate` and `compare`."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from caad_ds.evaluation.benchmarks.mcr_bench import CONDITIONS, HINTS
from caad_ds.evaluation.scoring.scores import LEVEL, POOLED, RULES
from caad_ds.utils.fault_list import EXAMPLES, Faults
from caad_ds.utils.terminal_table import Table
from caad_ds.utils.wording import counted

UNWRAPPED = 240
LEGEND = (
    "Conditions: no hint (neutral), a true one, a false one, one about something else. shift: right answers lost to "
    "the false hint, of those right without it (the CAAD authors' TIR_adv); tir_all: of all items (MCR-BENCH's TIR)."
)
SUBSET_LEGEND = (
    "MRS: 0.8 adversarial / neutral + 0.2 irrelevant / neutral (MCR-BENCH); "
    "strict: neutral, answers that name one option alone; lenient: the same, also in brackets, numbers in words, units."
)
SIGNIFICANT = "*"
TOO_FEW = "too few items to tell"
EXCHANGE = (
    "the systems' answers exchanged clip by clip, exact at every number of items where systems are alike in everything "
    "(McNemar's test where a clip has one question and systems one run). It speaks of these models and of items like "
    "these, not of other seeds."
)
NO_INTERVAL = (
    "95% intervals: bootstrap over clips; where it knows no spread (few clips, all answers alike), Wilson's for shares "
    "of items, and - for all else."
)
MAIN = {**{c: f"accuracy_{c}" for c in CONDITIONS}, "shift": "shift", "tir_all": "tir_all_adversarial"}
FIGURES = {**MAIN, **{f"NormAcc {c}": f"norm_accuracy_{c}" for c in HINTS}, "MRS": "mrs"}


def percent(value: float | None) -> str:
    """A share as a percentage with one decimal; `-` where it is undefined."""
    return "-" if value is None else f"{100 * value:.1f}"


def with_deviation(metric: dict) -> str:
    """`mean +- deviation` over runs, the value alone for one run."""
    deviation = metric["deviation"]
    return percent(metric["value"]) + ("" if deviation is None else f" ± {percent(deviation)}")


def with_interval(metric: dict) -> str:
    """`value [low, high]`, the interval over items."""
    return f"{percent(metric['value'])} [{percent(metric['low'])}, {percent(metric['high'])}]"


def p_value(p: float | None) -> str:
    """With three decimals; `-` where there is none."""
    return "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def scores_rows(groups: dict) -> tuple[list[str], list[list[str]]]:
    """Header and rows of one system: a row per subset, then all together with the interval of each figure below it."""
    metrics, rows = [*MAIN.values(), "mrs"], []
    for subset in [*(name for name in groups if name != POOLED), POOLED]:
        scores = groups[subset]
        cells = [scores[key] for key in metrics] + [scores[rule]["accuracy_neutral"] for rule in RULES[1:]]
        rows.append([subset, str(scores["items"]), *(percent(cell["value"]) for cell in cells)])
    rows += [[bound, "", *(percent(cell[bound]) for cell in cells)] for bound in ("low", "high")]
    return ["subset", "items", *MAIN, "MRS", *RULES[1:]], rows


def comparison_rows(systems: dict[str, dict], differences: dict[str, dict]) -> tuple[list[str], list[list[str]]]:
    """Header and rows `system | runs | conditions | shift | tir_all | adversarial per subset`, from score groups.

    A figure is marked where it differs significantly from the baseline's, which `differences` lacks.
    """
    subsets = [name for name in next(iter(systems.values())) if name != POOLED]
    header = ["system", "runs", *MAIN, *(f"{name} adv" for name in subsets)]
    rows = []
    shown = [(POOLED, key) for key in MAIN.values()] + [(name, "accuracy_adversarial") for name in subsets]
    for system, groups in systems.items():
        marks = [_mark(differences.get(system), group, key) for group, key in shown]
        cells = [with_deviation(groups[group][key]) + mark for (group, key), mark in zip(shown, marks, strict=True)]
        rows.append([system, str(groups[POOLED]["runs"]), *cells])
    return header, rows


def difference_rows(differences: dict[str, dict[str, dict]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of what the systems differ by from the baseline, in points, from differences by label."""
    rows = []
    for system, figures in differences.items():
        for name, found in figures.items():
            points = _points(found["value"]) + (SIGNIFICANT if found["significant"] else "")
            bounds = f"[{_points(found['low'])}, {_points(found['high'])}]"
            items = f"{found['higher']} / {found['lower']}" if "higher" in found else "-"
            corrected = TOO_FEW if found["too_few"] else p_value(found["p_holm"])
            rows.append([system, name, points, bounds, items, p_value(found["p"]), corrected])
    return ["system", "figure", "difference", "95% interval", "items above / below", "p", "p (Holm)"], rows


def interval_rows(systems: dict[str, dict[str, dict]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of figures by label with their intervals over items."""
    rows = [[system, *map(with_interval, figures.values())] for system, figures in systems.items()]
    return ["system", *next(iter(systems.values()))], rows


def significance_legend(baseline: str, differences: dict[str, dict[str, dict]]) -> str:
    """What the mark in a comparison means, from differences by label, and where items are too few to give any."""
    others = len(differences)
    over = f"after Holm's correction over the {others} systems of its column" if others > 1 else ""
    meaning = f"Marked {SIGNIFICANT}: differs from {baseline}, p < {1 - LEVEL:g} {over}".rstrip() + f"; {EXCHANGE}"
    figures = {name for system in differences.values() for name in system}
    few = [name for name in figures if any(system[name]["too_few"] for system in differences.values())]
    return meaning + (f" {TOO_FEW[0].upper()}{TOO_FEW[1:]}, so never marked: {', '.join(sorted(few))}." if few else "")


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table for a Markdown file."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def show(*parts: Table | str) -> None:
    """Print to standard output, as wide as the terminal or as COLUMNS says, or UNWRAPPED where there is neither."""
    console = Console(highlight=False)  # its width is that of COLUMNS where that is set
    if not console.is_terminal and not os.environ.get("COLUMNS", "").isdigit():
        console.width = UNWRAPPED
    for part in parts:
        for printed in part.fitted(console.width) if isinstance(part, Table) else [part]:
            console.print(printed, markup=False)


def show_rejected(rejected: list[dict], place: Path | None) -> None:
    """Names on standard error the rows that were left out; beyond the first ones, where all of them are listed."""
    _name_rows(rejected, ("row was left out", "rows were left out"), place)


def show_doubtful(doubtful: list[dict], place: Path | None) -> None:
    """Names on standard error the rows that are asked about audio which a rule (levels.py) finds unusable."""
    asked = "asked about audio that training would not take"
    _name_rows(doubtful, (f"row is {asked}", f"rows are {asked}"), place)


def _name_rows(rows: list[dict], told: Sequence[str], place: Path | None) -> None:
    """Print to standard error the number of rows, what is `told` of one and of many, and each reason; of many only some
    if `place` has all."""
    if not rows:
        return
    lines = [counted(len(rows), *told) + (f" (all in {place})" if place else "") + ":"]
    lines += [f"  {row['id']}: {row['reason']}" for row in rows]
    if place and len(rows) > EXAMPLES:
        faults = Faults()
        for row in rows:
            faults.add(row["id"], row["reason"])
        lines = faults.lines(told[1], place)
    print("\n".join(lines), file=sys.stderr)


def _mark(groups: dict | None, group: str, key: str) -> str:
    return SIGNIFICANT if groups and groups[group][key]["significant"] else ""


def _points(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.1f}"
