"""`caad-ds benchmarks`: which benchmarks there are, where they come from, and what one on this disk lacks."""

import argparse
from collections import Counter
from pathlib import Path

from caad_ds.evaluation.benchmarks.described.description import Description, read_description, shipped
from caad_ds.evaluation.benchmarks.kinds import KINDS, load, named
from caad_ds.evaluation.report.tables import show, show_rejected
from caad_ds.utils.command import ROWS_REJECTED
from caad_ds.utils.errors import UserError
from caad_ds.utils.paths import existing
from caad_ds.utils.terminal_table import Table
from caad_ds.utils.wording import counted

ACTIONS = ("list", "check")
ON_DISK = "found in the folder or JSONL file that --benchmark names; the CAAD authors' manifests too"


def register(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("action", nargs="?", choices=ACTIONS, default="list", help="default: list")
    parser.add_argument("benchmark", nargs="?", type=named, metavar="PATH", help="of check: as evaluate's --benchmark")
    parser.add_argument("--data", type=existing, metavar="DIR", help="folder of the files that a description names")
    parser.add_argument("--kind", choices=KINDS, help="format of the benchmark (default: detected)")


def run(args: argparse.Namespace) -> int:
    """List the benchmarks, or check one; 3 if rows of it cannot be used, else 0."""
    if args.action == "list":
        if args.benchmark or args.data or args.kind:
            raise UserError("benchmarks list: takes no further arguments; to look at one, `caad-ds benchmarks check`")
        show_benchmarks()
        return 0
    if args.benchmark is None:
        raise UserError("benchmarks check: name a benchmark's folder or file, or one that `caad-ds benchmarks` lists")
    return check(args.benchmark, args.kind, args.data)


def show_benchmarks() -> None:
    """Print what there is, and of each description where its form was seen and its files are to be had."""
    described = [read_description(file) for file in shipped().values()]
    rows = [[one.name, one.score, one.matching] for one in described]
    rows += [[kind, benchmark.figures, "label"] for kind, benchmark in KINDS.items()]
    show(Table("Benchmarks", ["name", "score", "right by the rule"], rows))
    show(*(line for one in described for line in _sources(one)), f"{', '.join(KINDS)}: {ON_DISK} (docs/evaluation.md)")


def check(place: Path, kind: str | None, data: Path | None) -> int:
    """Print what a benchmark holds, and on standard error each row that cannot be used and why."""
    found = load(place, kind, data=data)
    rows = {item.id: item.subset for item in found.items}
    of = [[name, str(count)] for name, count in Counter(rows.values()).items()]
    show(f"{found.kind}: {counted(len(rows), 'row')} can be used", Table("Rows by subset", ["subset", "rows"], of))
    show_rejected(found.rejected, None)
    return ROWS_REJECTED if found.rejected else 0


def _sources(one: Description) -> list[str]:
    lines = [f"{one.name}: {one.title}", f"  needs {one.data}"]
    for source in one.sources:
        release = f", release {source.release}" if source.release else ""
        lines.append(f"  {source.of}: {source.repository} {source.commit[:10]}, {', '.join(source.files)}{release}")
        lines += [f"    note: {source.note}"] if source.note else []
    return lines
