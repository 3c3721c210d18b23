"""`caad-ds speed`: size and speed of a teacher and its students, with and without contrastive decoding."""

import argparse
from pathlib import Path

from caad_ds.evaluation.commands import implementation
from caad_ds.evaluation.commands.shared_arguments import add_benchmark_arguments
from caad_ds.evaluation.speed.result import FILES, log_speeds, show_speeds
from caad_ds.evaluation.tables_and_plots.mlflow_log import add_mlflow_arguments, output_folder, store_of
from caad_ds.evaluation.tables_and_plots.tables import show
from caad_ds.generation.arguments import MODEL, add_device_arguments, add_gate, add_negative
from caad_ds.generation.decoding_settings import check_above_zero, check_gate
from caad_ds.utils.command import positive
from caad_ds.utils.errors import UserError
from caad_ds.utils.model_names import model_folder


def register(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--models",
        nargs="+",
        type=_named,
        required=True,
        metavar="NAME=MODEL",
        help=f"each a {MODEL}; ratios are to the first one",
    )
    add_benchmark_arguments(parser)
    parser.add_argument(
        "--contrast-alpha", type=float, metavar="A", help="measure each model with contrastive decoding as well"
    )
    add_negative(parser)
    add_gate(parser)
    parser.add_argument(
        "--batch-size", type=positive, default=8, metavar="N", help="batch size measured besides 1 (default 8)"
    )
    parser.add_argument("--tokens", type=positive, default=32, metavar="N", help="tokens per answer (default 32)")
    parser.add_argument("--rounds", type=positive, default=5, metavar="N", help="timed rounds (default 5)")
    add_device_arguments(parser)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="folder for speed.md and speed.json")
    add_mlflow_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Check the arguments, measure, print the table, log it; return the exit status."""
    check_above_zero("--contrast-alpha", args.contrast_alpha)
    check_gate(args.contrast_alpha, args.alpha_gate, args.gate_m)
    if len(dict(args.models)) < len(args.models):
        raise UserError("--models: give NAME=MODEL, each name once")
    store = store_of(args.mlflow, args.experiment)
    compare_speed = implementation("speed.compare_speed").compare_speed
    with output_folder(args.out) as folder:
        found = compare_speed(
            dict(args.models), args.benchmark, data=args.data,
            contrast_alpha=args.contrast_alpha, negative=args.negative, alpha_gate=args.alpha_gate, gate_m=args.gate_m,
            batch_size=args.batch_size, tokens=args.tokens, rounds=args.rounds, device=args.device, dtype=args.dtype,
            out=folder if args.out or store else None,
        )  # fmt: skip
        show_speeds(found)
        if args.out:
            show(f"saved {args.out}/{', '.join(FILES)}")
        log_speeds(store, folder, found)
    return 0


def _named(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise UserError(f"--models {text}: give NAME=MODEL, each name once")
    return name, model_folder(folder)
