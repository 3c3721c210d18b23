"""`caad-ds export`: a run's checkpoint as a model folder, with the scores of evaluations in its model card."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from caad_ds.training.export.export_checkpoint import export

if TYPE_CHECKING:
    from caad_ds.training.export.model_card import Scores


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `export`."""
    parser.add_argument(
        "source",
        type=Path,
        metavar="RUN_OR_CHECKPOINT",
        help="a run's folder (its newest checkpoint), or one such as RUN/checkpoints/step-00000400 (or step-400)",
    )
    parser.add_argument(
        "--keep-adapters",
        action="store_true",
        help="keep LoRA adapters separate instead of merging them into the weights",
    )
    parser.add_argument(
        "--evaluation",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="folders that `caad-ds evaluate` wrote for this model: its card shows their scores",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the model folder to write")


def run(args: argparse.Namespace) -> int:
    """Write the model folder; returns the exit status."""
    if not args.evaluation:
        export(args.source, args.out, merge=not args.keep_adapters)
        return 0
    # Importing the evaluation packages takes seconds.
    from caad_ds.publishing.scores import read_evaluations, scores_of

    evaluations = read_evaluations(args.evaluation)

    def scores(model: Path) -> "list[Scores]":
        return scores_of(evaluations, model)

    export(args.source, args.out, merge=not args.keep_adapters, scores=scores)
    return 0
