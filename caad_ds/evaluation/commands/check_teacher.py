"""`caad-ds check-teacher`: check whether a teacher is fit for contrastive distillation."""

import argparse

from caad_ds.config.objective_section import CHECKED_ALPHAS, CHECKED_NEGATIVES, NEGATIVES
from caad_ds.evaluation.benchmarks.benchmark_kinds import named
from caad_ds.evaluation.commands import implementation
from caad_ds.evaluation.commands.shared_arguments import add_model_arguments
from caad_ds.evaluation.tables_and_plots.tables import show_doubtful, show_rejected
from caad_ds.utils.command import ROWS_REJECTED, positive
from caad_ds.utils.paths import existing, new_file


def register(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_model_arguments(parser)
    parser.add_argument(
        "--instructions",
        type=existing,
        metavar="FILE",
        help="YAML with options and statements (default: the benchmark's own options)",
    )
    parser.add_argument(
        "--train-benchmark", type=named, metavar="PATH",
        help="a benchmark of clips that the teacher was trained on, to distinguish overfitting from underfitting",
    )  # fmt: skip
    parser.add_argument(
        "--train-data",
        type=existing,
        metavar="DIR",
        help="as --data, where --train-benchmark is a description",
    )
    parser.add_argument(
        "--negatives",
        nargs="+",
        choices=NEGATIVES,
        default=CHECKED_NEGATIVES,
        help="which ones (default: all but shuffled)",
    )
    parser.add_argument("--alphas", nargs="+", type=float, default=CHECKED_ALPHAS, metavar="A", help="default 0.5 1 2")
    parser.add_argument(
        "--max-new-tokens", type=positive, default=16, metavar="N", help="maximum new tokens per answer (default 16)"
    )
    parser.add_argument(
        "--out", type=new_file, metavar="FILE", help="writes figures and verdict as JSON; an interrupted check resumes"
    )


def run(args: argparse.Namespace) -> int:
    """Check the teacher, print tables and verdict; return 3 if rows of the benchmark could not be used, else 0."""
    found = implementation("teacher_check.check_teacher").check_teacher(
        args.model, args.benchmark, args.instructions, data=args.data, train_benchmark=args.train_benchmark,
        train_data=args.train_data,
        negatives=args.negatives, alphas=args.alphas, out=args.out, limit=args.limit,
        max_new_tokens=args.max_new_tokens, batch_size=args.batch_size, device=args.device, dtype=args.dtype,
    )  # fmt: skip
    from caad_ds.evaluation.teacher_check.check_tables import show_result  # imports PyTorch

    show_result(found.name, found.signals, found.decoded, found.verdict)
    show_doubtful(found.doubtful, args.out)
    show_rejected(found.rejected, args.out)
    return ROWS_REJECTED if found.rejected else 0
