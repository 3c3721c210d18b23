"""`caad-ds report`: a web page about several evaluations, with their audio."""

import argparse
import sys

from caad_ds.evaluation.commands import implementation
from caad_ds.evaluation.commands.compare import partly
from caad_ds.evaluation.html_report.page_audio import EMBEDDED_MB
from caad_ds.evaluation.tables_and_plots.tables import show_silent
from caad_ds.utils.command import ROWS_REJECTED
from caad_ds.utils.formatting import counted
from caad_ds.utils.paths import existing, page_file


def register(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("runs", nargs="+", type=existing, metavar="RUN", help="run folder of `caad-ds evaluate`")
    parser.add_argument("--out", type=page_file, required=True, metavar="FILE", help="the page (.html), replaced")
    parser.add_argument("--baseline", metavar="NAME", help="system to test the others against (default: the first)")
    parser.add_argument("--title", help="title of the page (default: the benchmark's)")
    parser.add_argument(
        "--tokens", nargs="+", type=existing, default=[], metavar="FOLDER",
        help="folders of `caad-ds explain` (RUN/tokens is found by itself)",
    )  # fmt: skip
    parser.add_argument(
        "--embed-mb", type=_megabytes, default=EMBEDDED_MB, metavar="MB",
        help="audio of at most so much is put into the page, more into a folder beside it (default %(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--no-audio", action="store_true", help="no players, as for recordings that may not be passed on"
    )


def run(args: argparse.Namespace) -> int:
    """Write the page, print where it is and what has no player; return 3 if a run left out rows, else 0."""
    found = implementation("html_report.report").report(
        args.runs, args.out, baseline=args.baseline, title=args.title, tokens=args.tokens, embed_mb=args.embed_mb,
        audio=not args.no_audio,
    )  # fmt: skip
    show_silent(found.silent, args.out)
    for reason in found.unshown:
        print(f"caad-ds report: not shown token by token: {reason}", file=sys.stderr)
    beside = f"; its audio is in {found.beside}, keep both together" if found.beside else ""
    print(f"report on {counted(found.items, 'item')}: {args.out}{beside}")
    if found.rejected:
        print(f"caad-ds report: not the whole benchmark: {partly(found.rejected)}", file=sys.stderr)
    return ROWS_REJECTED if found.rejected else 0


def _megabytes(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is no number of megabytes")
    return value
