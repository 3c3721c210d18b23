"""Arguments that several commands of evaluation take."""

import argparse

from caad_ds.config.objective_section import ALPHA_GATES, NEGATIVES
from caad_ds.generation.decoding_settings import DTYPES, GATE_M, NO_GATE
from caad_ds.utils.command import positive
from caad_ds.utils.paths import existing, model_folder

MODEL = "folder of a model, or of the run that trained it, or a hub id"


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every command that runs a model on a benchmark takes."""
    parser.add_argument("--model", type=model_folder, required=True, metavar="MODEL", help=MODEL)
    parser.add_argument(
        "--benchmark", type=existing, required=True, metavar="PATH", help="a benchmark's folder, or JSONL file"
    )
    parser.add_argument("--batch-size", type=positive, default=32, metavar="N", help="items per batch (default 32)")
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N rows of each subset")
    add_device_arguments(parser)


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where every command that runs models runs them, and in what."""
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="dtype of the models (default float32)")


def add_negative(parser: argparse.ArgumentParser) -> None:
    """Add the input of the second path of contrastive decoding."""
    parser.add_argument(
        "--negative",
        choices=NEGATIVES,
        default="zero_mel",
        help="input that replaces the audio in the contrastive pass (default zero_mel)",
    )


def add_gate(parser: argparse.ArgumentParser) -> None:
    """Add what makes alpha one number per step and sample."""
    parser.add_argument(
        "--alpha-gate",
        choices=ALPHA_GATES,
        default=NO_GATE,
        help="experimental: lower alpha where the contrastive pass is unsure (default none)",
    )
    parser.add_argument(
        "--gate-m",
        type=float,
        default=GATE_M,
        metavar="M",
        help="with --alpha-gate: no contrast from the entropy of M equally likely tokens on (default 2)",
    )
