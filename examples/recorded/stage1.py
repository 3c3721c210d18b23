"""How often Stage 1 was right: `python -m examples.recorded.stage1 ANSWERED.jsonl ...`, by the rules of evaluation."""

import argparse
import sys
from collections import Counter
from pathlib import Path

from caad_ds.command import guarded
from caad_ds.data.instructions import Instructions
from caad_ds.errors import UserError
from caad_ds.evaluation.matching import matches, matches_strictly
from data_prep.jsonl import read_jsonl
from data_prep.manifest import load_manifest
from data_prep.prompt import prompt_of
from data_prep.rejects import rejected_path

INSTRUCTIONS = Path("configs/recorded/instructions.yaml")


def main(argv: list[str] | None = None) -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(prog="examples.recorded.stage1", description=__doc__)
    parser.add_argument("manifests", type=Path, nargs="+", metavar="ANSWERED", help="what `prep pseudo-gt` wrote")
    parser.add_argument("--debug", action="store_true", help="show tracebacks of user errors")
    args = parser.parse_args(argv)
    return guarded(lambda: run(args), args.debug)


def run(args: argparse.Namespace) -> int:
    """Print, per manifest and attribute, how many answers name the right label, and how many name no other."""
    options = {key: attribute.options for key, attribute in Instructions.load(INSTRUCTIONS).attributes.items()}
    for path in args.manifests:
        counts: Counter = Counter()
        for record in load_manifest(path):
            told, answer = prompt_of(record), record.get("response")
            if answer is None or not {"attribute", "label"} <= told.keys():
                raise UserError(
                    f"{path}, record {record['id']}: not answered by `caad-ds prep pseudo-gt`; run it first"
                )
            key, label = told["attribute"], told["label"]
            right, strict = matches(answer, label), matches_strictly(answer, label, options[key])
            counts.update({(key, "answers"): 1, (key, "right"): right, (key, "strict"): strict})
        print(f"{path}: {_rejected(path)} without a usable answer")
        for key in options:
            answers, right, strict = (counts[key, column] for column in ("answers", "right", "strict"))
            if answers:  # a protocol may leave an attribute out
                print(f"  {key}: {answers} answers, right {right / answers:.1%}, strict {strict / answers:.1%}")
    return 0


def _rejected(path: Path) -> int:
    return sum(1 for _ in read_jsonl(rejected_path(path))) if rejected_path(path).exists() else 0


if __name__ == "__main__":
    sys.exit(main())
