"""`caad-ds compare`: compare several evaluations in tables and pictures."""

import argparse
import sys
from pathlib import Path

from caad_ds.evaluation.commands import implementation
from caad_ds.evaluation.comparison.result import log_comparison, show_comparison
from caad_ds.evaluation.tables_and_plots.mlflow_log import add_mlflow_arguments, output_folder, store_of
from caad_ds.evaluation.tables_and_plots.tables import show
from caad_ds.utils.command import ROWS_REJECTED
from caad_ds.utils.formatting import counted
from caad_ds.utils.paths import existing

FILES = ("table.json", "table.md", "table.csv", "table.tex", "table.png", "flips.png", "tradeoff.png")


def register(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("runs", nargs="+", type=existing, metavar="RUN", help="run folder of `caad-ds evaluate`")
    parser.add_argument("--baseline", metavar="NAME", help="system to test the others against (default: the first)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=f"writes {', '.join(FILES)} there")
    parser.add_argument("--title", help="title of the table and the picture (default: the benchmark's)")
    add_mlflow_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Compare, print the tables, log them; return 3 if a run could not use rows of its benchmark, else 0."""
    store = store_of(args.mlflow, args.experiment)
    compare = implementation("comparison.compare").compare
    with output_folder(args.out) as folder:
        found = compare(args.runs, baseline=args.baseline, out=folder if args.out or store else None, title=args.title)
        show_comparison(found)
        if args.out:
            show(f"saved {args.out}/{', '.join(found.files)}")
        log_comparison(store, folder, found)
    if found.rejected:
        print(f"caad-ds compare: not the whole benchmark: {partly(found.rejected)}", file=sys.stderr)
    return ROWS_REJECTED if found.rejected else 0


def partly(rejected: dict[Path, int]) -> str:
    """Return the message about runs that cover only part of the benchmark's rows."""
    return ", ".join(f"{counted(count, 'row')} left out in {path}" for path, count in rejected.items())
