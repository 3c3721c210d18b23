"""`caad-ds benchmarks`: list the known benchmarks and their sources, or check one on disk."""

import argparse
from collections import Counter
from pathlib import Path

from caad_ds.evaluation.benchmarks.benchmark_kinds import KINDS, load, named
from caad_ds.evaluation.benchmarks.from_description.description import Description, read_description, shipped
from caad_ds.evaluation.tables_and_plots.tables import show, show_rejected
from caad_ds.utils.command import ROWS_REJECTED
from caad_ds.utils.errors import UserError
from caad_ds.utils.formatting import counted
from caad_ds.utils.paths import existing
from caad_ds.utils.terminal_table import Table

ACTIONS = ("list", "check")
MANIFESTS = "the CAAD authors' manifests"
ON_DISK = {
    "mcr-bench": "arXiv 2508.15407, github.com/WangCheng0116/MCR-BENCH; clips of ClothoAQA, MELD and VocalSound",
    "dynamic-superb": "arXiv 2309.09510, phase 1; the data sets DynamicSuperb/<instance> on the Hugging Face hub",
    MANIFESTS: "JSONL of either, handed on by the authors of CAAD; no public place of them is known to us",
}
FOUND = "found in the folder or JSONL file that --benchmark names (docs/benchmarks.md)"


def register(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("action", nargs="?", choices=ACTIONS, default="list", help="default: list")
    parser.add_argument("benchmark", nargs="?", type=named, metavar="PATH", help="of check: as evaluate's --benchmark")
    parser.add_argument("--data", type=existing, metavar="DIR", help="folder of the files that a description names")
    parser.add_argument("--kind", choices=KINDS, help="format of the benchmark (default: detected)")


def run(args: argparse.Namespace) -> int:
    """List the benchmarks, or check one; return 3 if rows of it cannot be used, else 0."""
    if args.action == "list":
        if args.benchmark or args.data or args.kind:
            raise UserError("benchmarks list: takes no further arguments; to look at one, `caad-ds benchmarks check`")
        show_benchmarks()
        return 0
    if args.benchmark is None:
        raise UserError("benchmarks check: name a benchmark's folder or file, or one that `caad-ds benchmarks` lists")
    return check(args.benchmark, args.kind, args.data)


def show_benchmarks() -> None:
    """Print the benchmarks and, for each, the sources of its format and where to get its files."""
    descriptions = [read_description(file) for file in shipped().values()]
    rows = [[description.name, description.score, description.matching] for description in descriptions]
    rows += [[kind, benchmark.result_kind, "label"] for kind, benchmark in KINDS.items()]
    show(Table("Benchmarks", ["name", "score", "right by the rule"], rows))
    show(
        *(line for description in descriptions for line in _sources(description)),
        *(f"{name}: {source}" for name, source in ON_DISK.items()),
        f"  {FOUND}",
    )


def check(path: Path, kind: str | None, data: Path | None) -> int:
    """Print the contents of a benchmark, and to standard error each row that cannot be used and why."""
    found = load(path, kind, data=data)
    rows = {item.id: item.subset for item in found.items}
    counts = [[name, str(count)] for name, count in Counter(rows.values()).items()]
    show(f"{found.kind}: {counted(len(rows), 'row')} can be used", Table("Rows by subset", ["subset", "rows"], counts))
    show_rejected(found.rejected, None)
    return ROWS_REJECTED if found.rejected else 0


def _sources(description: Description) -> list[str]:
    lines = [f"{description.name}: {description.title}", f"  needs {description.data}"]
    for source in description.sources:
        release = f", release {source.release}" if source.release else ""
        lines.append(f"  {source.of}: {source.repository} {source.commit[:10]}, {', '.join(source.files)}{release}")
        lines += [f"    note: {source.note}"] if source.note else []
    return lines
