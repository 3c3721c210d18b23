"""The tables of `evaluate` and `compare`."""

import sys
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from caad_ds.evaluation.mcr_bench import CONDITIONS
from caad_ds.evaluation.scores import POOLED

UNWRAPPED = 240
LISTED = 10
LEGEND = (
    "Conditions: no hint (neutral), a true one, a false one, one about something else. shift: right answers lost to "
    "the false hint, of those right without it; tir_adv: of all items."
)
SUBSET_LEGEND = (
    "MRS: 0.8 adversarial / neutral + 0.2 irrelevant / neutral (MCR-BENCH); "
    "strict: neutral, answers that name one option alone."
)
MAIN = {**{c: f"accuracy_{c}" for c in CONDITIONS}, "shift": "shift", "tir_adv": "tir_adversarial"}


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


def scores_table(name: str, groups: dict) -> Table:
    """One system: a line per subset, then all subsets together with the interval of each figure below it."""
    table = _empty(f"{name}: percentages; 95% intervals over items", ["subset", "items", *MAIN, "MRS", "strict"])
    metrics = [*MAIN.values(), "mrs"]
    for subset in [*(name for name in groups if name != POOLED), POOLED]:
        scores = groups[subset]
        cells = [scores[key] for key in metrics] + [scores["strict"]["accuracy_neutral"]]
        table.add_row(subset, str(scores["items"]), *(percent(cell["value"]) for cell in cells))
    table.add_row("", "low", *(percent(cell["low"]) for cell in cells))
    table.add_row("", "high", *(percent(cell["high"]) for cell in cells))
    return table


def comparison_rows(systems: dict[str, dict]) -> tuple[list[str], list[list[str]]]:
    """Header and rows `system | runs | conditions | shift | tir_adv | adversarial per subset`, from score groups."""
    subsets = [name for name in next(iter(systems.values())) if name != POOLED]
    header = ["system", "runs", *MAIN, *(f"{name} adv" for name in subsets)]
    rows = []
    for system, groups in systems.items():
        pooled = [groups[POOLED][key] for key in MAIN.values()]
        adversarial = [groups[name]["accuracy_adversarial"] for name in subsets]
        cells = [with_deviation(metric) for metric in pooled + adversarial]
        rows.append([system, str(groups[POOLED]["runs"]), *cells])
    return header, rows


def interval_rows(systems: dict[str, dict]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the main figures with their intervals over items."""
    rows = [[s, *(with_interval(groups[POOLED][key]) for key in MAIN.values())] for s, groups in systems.items()]
    return ["system", *MAIN], rows


def terminal(title: str, header: list[str], rows: list[list[str]]) -> Table:
    """A table for the terminal."""
    table = _empty(title, header)
    for row in rows:
        table.add_row(*row)
    return table


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table for a Markdown file."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def show(*parts: Table | str) -> None:
    """Prints to standard output, as wide as the terminal, or unwrapped where there is none."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = UNWRAPPED
    for part in parts:
        console.print(part, markup=False)


def show_rejected(rejected: list[dict], place: Path | None) -> None:
    """Names on standard error the rows that were left out; beyond the first ones, where all of them are listed."""
    if rejected:
        where = f" (all in {place})" if place else ""
        lines = [f"{len(rejected)} rows were left out{where}:"]
        lines += [f"  {row['id']}: {row['reason']}" for row in rejected[: LISTED if place else None]]
        print("\n".join(lines), file=sys.stderr)


def _empty(title: str, header: list[str]) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
    for k, name in enumerate(header):
        table.add_column(name, justify="right" if k else "left", overflow="fold")
    return table
