"""Arguments shared by several evaluation commands."""

import argparse

from caad_ds.evaluation.benchmarks.benchmark_kinds import named
from caad_ds.generation.arguments import MODEL, add_device_arguments
from caad_ds.utils.command import positive
from caad_ds.utils.model_names import model_folder
from caad_ds.utils.paths import existing


def add_benchmark_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--benchmark` and `--data`."""
    parser.add_argument(
        "--benchmark", type=named, required=True, metavar="PATH",
        help="a benchmark's folder or JSONL file, a description (YAML), or the name of one that `benchmarks` lists",
    )  # fmt: skip
    parser.add_argument("--data", type=existing, metavar="DIR", help="folder of the files that a description names")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of every command that runs a model on a benchmark."""
    parser.add_argument("--model", type=model_folder, required=True, metavar="MODEL", help=MODEL)
    add_benchmark_arguments(parser)
    parser.add_argument("--batch-size", type=positive, default=32, metavar="N", help="items per batch (default 32)")
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N rows of each subset")
    add_device_arguments(parser)
