"""`caad-ds evaluate`: answer a benchmark with a model, and score the answers."""

import argparse
from dataclasses import asdict, fields
from pathlib import Path

from caad_ds.evaluation.benchmarks.benchmark import PLAIN
from caad_ds.evaluation.benchmarks.benchmark_kinds import KINDS, PROMPTS
from caad_ds.evaluation.benchmarks.from_description.description import description_file
from caad_ds.evaluation.commands import implementation
from caad_ds.evaluation.commands.shared_arguments import add_model_arguments
from caad_ds.evaluation.predictions import RunFolder
from caad_ds.evaluation.scoring.llm_judge import add_judge_arguments
from caad_ds.evaluation.tables_and_plots.evaluation_tables import evaluation_rows, show_evaluation
from caad_ds.evaluation.tables_and_plots.mlflow_log import add_mlflow_arguments, log_evaluation, store_of
from caad_ds.generation.arguments import add_decoding
from caad_ds.generation.decoding_settings import Decoding
from caad_ds.utils.command import ROWS_REJECTED
from caad_ds.utils.launch import is_main


def register(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_model_arguments(parser)
    parser.add_argument("--kind", choices=KINDS, help="format of the benchmark (default: detected)")
    parser.add_argument(
        "--prompt", choices=PROMPTS, default=PLAIN,
        help="MCR-BENCH: description and question on one line (default), or wrapped as a public runner does",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="run folder; resumes an interrupted run")
    parser.add_argument(
        "--name", help="the system's name in tables (default: the model's, with its contrast); seeds share one"
    )
    add_decoding(parser, max_new_tokens=16)
    add_judge_arguments(parser)
    add_mlflow_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Check the arguments, evaluate, print the table; return 3 if rows of the benchmark could not be used, else 0."""
    decoding = Decoding(**{option.name: getattr(args, option.name) for option in fields(Decoding)})
    store = store_of(args.mlflow, args.experiment)
    scores = implementation("evaluate").evaluate(
        model=args.model, benchmark=args.benchmark, out=args.out, data=args.data, kind=args.kind,
        limit=args.limit, name=args.name, prompt=args.prompt,
        batch_size=args.batch_size, device=args.device, dtype=args.dtype,
        judge_base_url=args.judge_base_url, judge_model=args.judge_model,
        judge_api_key_env=args.judge_api_key_env, judge_concurrency=args.judge_concurrency,
        **asdict(decoding),
    )  # fmt: skip
    if is_main():
        show_evaluation(scores, RunFolder(args.out))
        benchmark = args.data or description_file(args.benchmark) or args.benchmark
        log_evaluation(store, args.out, benchmark, evaluation_rows(scores))
    return ROWS_REJECTED if scores["rejected"] else 0
