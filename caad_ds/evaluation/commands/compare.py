"""`caad-ds compare`: several evaluations side by side, as tables and as pictures."""

import argparse
from pathlib import Path

from caad_ds.evaluation.commands import implementation
from caad_ds.evaluation.report.mlflow_log import add_mlflow_arguments, check_mlflow
from caad_ds.utils.paths import existing

FILES = ("table.json", "table.md", "table.png", "flips.png")
TITLE = "Accuracy when audio and text disagree"


def register(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("runs", nargs="+", type=existing, metavar="RUN", help="run folder of `caad-ds evaluate`")
    parser.add_argument("--baseline", metavar="NAME", help="tests the others against it (default: the first)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=f"writes {', '.join(FILES)} there")
    parser.add_argument("--title", default=TITLE, help="of the table and the picture")
    add_mlflow_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Check the arguments, then compare; returns the exit status."""
    check_mlflow(args)
    return implementation("comparison.compare").run(args)
