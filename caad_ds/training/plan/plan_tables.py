"""Print a plan as tables in a terminal."""

import os
from collections.abc import Sequence

from rich.console import Console

from caad_ds.training.plan.memory_plan import LARGEST
from caad_ds.training.plan.plan import Plan
from caad_ds.utils.formatting import gigabytes, short
from caad_ds.utils.terminal_table import Table

UNWRAPPED = 160


def show(plan: Plan) -> None:
    """Print the plan to standard output."""
    console = Console(highlight=False)
    if not console.is_terminal and not os.environ.get("COLUMNS", "").isdigit():
        console.width = UNWRAPPED
    console.print(_first_line(plan), markup=False, soft_wrap=True)
    for table in tables(plan):
        for printed in table.fitted(console.width):
            console.print(printed, markup=False)
    for line in [_placement(plan), *plan.notes]:
        console.print(line, markup=False, soft_wrap=True)


def tables(plan: Plan) -> list[Table]:
    """Return the tables of parameters, memory, FLOPs, data and files."""
    return [
        _by_part("Parameters", plan.parameters, _millions),
        _memory(plan),
        _flops(plan),
        Table("Data", ["", "an epoch", "the run"], _data_rows(plan)),
        *_hours(plan),
        Table("Files", ["", "GB"], [[name, _gb(size)] for name, size in plan.files.items()]),
    ]


def _first_line(plan: Plan) -> str:
    shape = f"micro-batch {plan.micro_batch} x {plan.accumulation} x {plan.ranks} ranks"
    return f"{plan.run} on {plan.ranks} x {plan.device}, {plan.precision}, {shape}, {_gb(plan.device_free)} GB a device"


def _memory(plan: Plan) -> Table:
    """Make a column per placement; of the momentary parts only the largest adds to the peak."""
    names = list(dict.fromkeys(part for parts in plan.memory.values() for part in parts))
    names = [name for name in names if any(parts.get(name) for parts in plan.memory.values())]
    names.sort(key=lambda name: (name == "peak", name.startswith("in ")))  # held throughout, momentary, the peak
    rows = [[_part(name), *(_gb(parts.get(name)) for parts in plan.memory.values())] for name in names]
    fits = ["yes" if fits else "no" for fits in plan.fits.values()]
    rows += [["fits", *fits], ["host memory", *(_gb(size) for size in plan.host.values())]]
    rows += [["largest micro-batch", *map(_most, plan.largest_micro_batch.values())]]
    return Table("Memory per rank in GB, by the teacher's placement or with a cache of it", ["", *plan.memory], rows)


def _most(samples: int) -> str:
    return f"over {LARGEST - 1}" if samples >= LARGEST - 1 else str(samples)


def _part(name: str) -> str:
    """Name a part; momentary ones are marked."""
    return f"moment: {name.removeprefix('in ')}" if name.startswith("in ") else name


def _flops(plan: Plan) -> Table:
    rows = _by_part("", plan.flops, _tera).rows
    if "authors" in plan.flops:
        base = plan.flops["authors"]["total"]
        ratios = [f"{parts['total'] / base:.3f}" for parts in plan.flops.values()]
        rows = [*rows, ["of the authors' graph", *ratios]]
    return Table("TFLOP per step", ["", *plan.flops], rows)


def _by_part(title: str, columns: dict, shown: object) -> Table:
    names = list(dict.fromkeys(part for parts in columns.values() for part in parts))
    names = [name for name in names if name == "total" or any(parts.get(name) for parts in columns.values())]
    rows: list[Sequence[str]] = [[n, *(shown(parts.get(n, 0)) for parts in columns.values())] for n in names]  # type: ignore[operator]
    return Table(title, ["", *columns], rows)


def _data_rows(plan: Plan) -> list[list[str]]:
    data = plan.data
    epochs = data["epochs"]
    names = {
        "samples": "samples", "text tokens": "text_tokens_per_epoch", "positions, padded": "positions_per_epoch",
        "answer rows": "answer_rows_per_epoch", "steps": "steps_per_epoch",
    }  # fmt: skip
    return [[name, _count(data[key]), _count(data[key] * epochs)] for name, key in names.items()]


def _placement(plan: Plan) -> str:
    auto = "" if plan.auto == plan.placement else f"; auto would take {plan.auto}"
    return f"teacher: {plan.placement} ({plan.placement_reason}){auto}"


def _hours(plan: Plan) -> list[Table]:
    """Make a row per kind of run, with the column of the memory that it needs; none where no peak is known."""
    if plan.hours["online"] is None:
        return []
    rows = [
        [name, _time(first), _time(plan.hours[name]), plan.memory_of[name] or "-"]
        for name, first in plan.first_epoch.items()
    ]
    return [Table("Hours", ["", "first epoch", "the run", "memory"], rows)]


def _time(hours: float | None) -> str:
    if hours is None:
        return "-"
    return f"{hours:.1f}" if hours >= 10 else f"{hours:.3g}"


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.4g}"


def _tera(value: float) -> str:
    return short(value / 1e12)


def _millions(value: float) -> str:
    return f"{value / 1e6:,.2f} M"


def _gb(size: float | None) -> str:
    return "-" if size is None else gigabytes(size)
