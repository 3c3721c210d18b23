"""Evaluate a model on a benchmark: python -m examples.api.evaluate MODEL BENCHMARK OUT."""

import json
import sys
from pathlib import Path

import caad_ds


def main(model: str, benchmark: str, out: str) -> dict:
    """Answer and score every item; `out` holds predictions and scores, as of `caad-ds evaluate`."""
    caad_ds.evaluate(model=model, benchmark=benchmark, out=out)
    scores = json.loads((Path(out) / "scores.json").read_text())
    print(json.dumps(scores["groups"]["all"], indent=2))
    return scores


if __name__ == "__main__":
    main(*sys.argv[1:])
