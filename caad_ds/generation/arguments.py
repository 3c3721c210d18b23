"""Arguments shared by the commands that run a model; imports nothing heavy."""

import argparse

from caad_ds.config.objective_section import ALPHA_GATES, NEGATIVES
from caad_ds.generation.decoding_settings import DTYPES, GATE_M, NO_GATE
from caad_ds.utils.command import positive

MODEL = "folder of a model, or of the run that trained it, or a hub id"


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--device` and `--dtype`."""
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="dtype of the models (default float32)")


def add_decoding(parser: argparse.ArgumentParser, max_new_tokens: int) -> None:
    """Add an option for each field of `Decoding`; `max_new_tokens` is the default of `--max-new-tokens`."""
    parser.add_argument("--contrast-alpha", type=float, metavar="A", help="contrastive decoding with this alpha")
    add_negative(parser)
    add_gate(parser)
    parser.add_argument("--plausibility", type=float, metavar="BETA", help="keep tokens with p >= BETA * max p_pos")
    parser.add_argument("--temperature", type=float, metavar="T", help="sample from softmax(z / T); default: greedy")
    parser.add_argument("--top-p", type=float, metavar="P", help="nucleus sampling with cumulative probability P")
    parser.add_argument("--top-k", type=positive, metavar="K", help="sample from the K likeliest tokens")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of the sampling (default 0)")
    parser.add_argument(
        "--max-new-tokens",
        type=positive,
        default=max_new_tokens,
        metavar="N",
        help=f"maximum new tokens per answer (default {max_new_tokens})",
    )


def add_negative(parser: argparse.ArgumentParser) -> None:
    """Add `--negative`, the input of the second path of contrastive decoding."""
    parser.add_argument(
        "--negative",
        choices=NEGATIVES,
        default="zero_mel",
        help="input that replaces the audio in the contrastive pass (default zero_mel)",
    )


def add_gate(parser: argparse.ArgumentParser) -> None:
    """Add the options of the alpha gate, which sets alpha per step and sample."""
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
