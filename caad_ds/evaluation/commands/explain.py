"""`caad-ds explain`: token probabilities of an answer with audio, without it, and under their contrast."""

import argparse
from dataclasses import asdict, fields
from pathlib import Path

from caad_ds.evaluation.commands import implementation
from caad_ds.evaluation.commands.shared_arguments import add_benchmark_arguments
from caad_ds.evaluation.explain.answer_settings import ANSWERS, AnswerSettings
from caad_ds.evaluation.tables_and_plots.mlflow_log import add_mlflow_arguments, store_of
from caad_ds.evaluation.tables_and_plots.tables import show_doubtful, show_rejected
from caad_ds.generation.arguments import MODEL, add_device_arguments, add_gate, add_negative
from caad_ds.utils.command import ROWS_REJECTED, positive
from caad_ds.utils.formatting import counted
from caad_ds.utils.model_names import model_folder
from caad_ds.utils.paths import existing


def register(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--model", type=model_folder, required=True, metavar="MODEL", help=MODEL)
    parser.add_argument(
        "--teacher",
        type=model_folder,
        metavar="MODEL",
        help="teacher whose p_pos, p_neg and target are shown beside the model's own",
    )
    add_benchmark_arguments(parser)
    parser.add_argument("--items", nargs="+", required=True, metavar="ID", help="gender/0, or gender/0:adversarial")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a PNG and a JSON file per item")
    parser.add_argument(
        "--answer", choices=ANSWERS, default="own", help="the model's own (default), its own under contrast, or the gt"
    )
    parser.add_argument(
        "--instructions", type=existing, metavar="FILE", help="with --answer gt: the gt's statement there"
    )
    parser.add_argument(
        "--contrast-alpha", type=float, default=1.0, metavar="A", help="alpha of the target (default 1)"
    )
    add_negative(parser)
    add_gate(parser)
    parser.add_argument("--plausibility", type=float, metavar="BETA", help="keep tokens with p >= BETA * max p_pos")
    parser.add_argument(
        "--temperature", type=float, default=1.0, metavar="T", help="temperature of all distributions (default 1)"
    )
    parser.add_argument(
        "--top", type=positive, default=5, metavar="K", help="number of tokens shown per position (default 5)"
    )
    parser.add_argument(
        "--max-new-tokens", type=positive, default=32, metavar="N", help="maximum new tokens per answer (default 32)"
    )
    add_device_arguments(parser)
    add_mlflow_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Check the arguments, explain, print what was saved, log it; return 3 if items could not be used, else 0."""
    store = store_of(args.mlflow, args.experiment)
    settings = AnswerSettings(**{option.name: getattr(args, option.name) for option in fields(AnswerSettings)})
    found = implementation("explain.explain").explain(
        args.model, args.benchmark, args.items, args.out, data=args.data, teacher=args.teacher, top=args.top,
        max_new_tokens=args.max_new_tokens, device=args.device, dtype=args.dtype, **asdict(settings),
    )  # fmt: skip
    show_doubtful(found.doubtful, None)
    show_rejected(found.rejected, None)
    print(f"saved the pictures and numbers of {counted(len(found.items), 'item')} in {args.out}")
    from caad_ds.evaluation.explain.result import log_explanations  # imports PyTorch

    log_explanations(store, args.out, found)
    return ROWS_REJECTED if found.rejected else 0
