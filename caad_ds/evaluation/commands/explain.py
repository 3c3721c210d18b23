"""`caad-ds explain`: what audio, text and their contrast make of each token of an answer."""

import argparse
from pathlib import Path

from caad_ds.evaluation.commands import implementation
from caad_ds.evaluation.commands.arguments import MODEL, add_device_arguments, add_negative, check_contrast
from caad_ds.evaluation.report.mlflow_log import add_mlflow_arguments, check_mlflow
from caad_ds.utils.command import positive
from caad_ds.utils.errors import UserError
from caad_ds.utils.paths import existing, model_folder

ANSWERS = ("own", "contrast", "gt")


def register(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--model", type=model_folder, required=True, metavar="DIR", help=MODEL)
    parser.add_argument(
        "--teacher", type=model_folder, metavar="DIR", help="its p_pos, p_neg and target, beside the model's own"
    )
    parser.add_argument("--benchmark", type=existing, required=True, metavar="DIR", help="folder in MCR-BENCH's format")
    parser.add_argument("--items", nargs="+", required=True, metavar="ID", help="gender/0, or gender/0:adversarial")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a PNG and a JSON file per item")
    parser.add_argument(
        "--answer", choices=ANSWERS, default="own", help="the model's own (default), its own under contrast, or the gt"
    )
    parser.add_argument(
        "--instructions", type=existing, metavar="FILE", help="with --answer gt: the gt's statement there"
    )
    parser.add_argument("--contrast-alpha", type=float, default=1.0, metavar="A", help="of the target (default 1)")
    add_negative(parser)
    parser.add_argument("--plausibility", type=float, metavar="BETA", help="keep tokens with p >= BETA * max p_pos")
    parser.add_argument("--temperature", type=float, default=1.0, metavar="T", help="of all distributions (default 1)")
    parser.add_argument("--top", type=positive, default=5, metavar="K", help="tokens of each position (default 5)")
    parser.add_argument("--max-new-tokens", type=positive, default=32, metavar="N", help="per answer (default 32)")
    add_device_arguments(parser)
    add_mlflow_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Check the arguments, then explain; returns the exit status."""
    check_mlflow(args)
    check_contrast(args.contrast_alpha, args.plausibility)
    if not 0 < args.temperature < float("inf"):
        raise UserError(f"--temperature {args.temperature}: give a finite number above 0")
    if args.instructions and args.answer != "gt":
        raise UserError("--instructions: has the right answers' statements; give --answer gt as well")
    return implementation("explain.explain").run(args)
