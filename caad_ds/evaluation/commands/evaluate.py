"""`caad-ds evaluate`: a model's answers to a benchmark, and their scores."""

import argparse
from pathlib import Path

from caad_ds.evaluation.benchmarks.benchmark import KINDS
from caad_ds.evaluation.commands import implementation
from caad_ds.evaluation.commands.arguments import add_model_arguments, add_negative, check_contrast
from caad_ds.evaluation.report.mlflow_log import add_mlflow_arguments, check_mlflow
from caad_ds.evaluation.scoring.llm_judge import add_judge_arguments
from caad_ds.utils.command import positive
from caad_ds.utils.errors import UserError


def register(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_model_arguments(parser)
    parser.add_argument("--kind", choices=KINDS, help="the benchmark's (default: detected)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="run folder; resumes an interrupted run")
    parser.add_argument("--name", help="the system's name in tables (default: the run folder's); seeds share one")
    parser.add_argument("--contrast-alpha", type=float, metavar="A", help="contrastive decoding with this alpha")
    add_negative(parser)
    parser.add_argument("--plausibility", type=float, metavar="BETA", help="keep tokens with p >= BETA * max p_pos")
    parser.add_argument("--temperature", type=float, metavar="T", help="sample from softmax(z / T); default: greedy")
    parser.add_argument("--top-p", type=float, metavar="P", help="nucleus sampling with cumulative probability P")
    parser.add_argument("--top-k", type=positive, metavar="K", help="sample from the K likeliest tokens")
    parser.add_argument("--seed", type=int, metavar="N", help="of the sampling (default 0)")
    parser.add_argument("--max-new-tokens", type=positive, default=16, metavar="N", help="per answer (default 16)")
    add_judge_arguments(parser)
    add_mlflow_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Check the arguments, then evaluate; returns the exit status."""
    check_contrast(args.contrast_alpha, args.plausibility)
    if args.plausibility is not None and args.contrast_alpha is None:
        raise UserError("--plausibility: belongs to contrastive decoding; give --contrast-alpha as well")
    if args.temperature is not None and not 0 < args.temperature < float("inf"):
        raise UserError(f"--temperature {args.temperature}: give a finite number above 0; leave it out for greedy")
    if args.top_p is not None and not 0 < args.top_p <= 1:
        raise UserError(f"--top-p {args.top_p}: give a number in (0, 1]")
    given = [flag for flag in ("top_p", "top_k", "seed") if getattr(args, flag) is not None]
    if given and args.temperature is None:
        raise UserError(f"--{given[0].replace('_', '-')}: belongs to sampling; give --temperature as well")
    check_mlflow(args)
    return implementation("evaluate").run(args)
