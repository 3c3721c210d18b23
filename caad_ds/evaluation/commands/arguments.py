"""Arguments that several commands of evaluation take."""

import argparse

from caad_ds.generation.arguments import MODEL, add_device_arguments
from caad_ds.utils.command import positive
from caad_ds.utils.paths import existing, model_folder


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every command that runs a model on a benchmark takes."""
    parser.add_argument("--model", type=model_folder, required=True, metavar="MODEL", help=MODEL)
    parser.add_argument(
        "--benchmark", type=existing, required=True, metavar="PATH", help="a benchmark's folder, or JSONL file"
    )
    parser.add_argument("--batch-size", type=positive, default=32, metavar="N", help="items per batch (default 32)")
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N rows of each subset")
    add_device_arguments(parser)
