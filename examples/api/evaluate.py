"""Evaluate a model on a benchmark: python -m examples.api.evaluate MODEL BENCHMARK OUT."""

import json
import sys

import caad_ds


def main(model: str, benchmark: str, out: str) -> dict:
    """Answer and score every item; `out` holds predictions and scores, as of `caad-ds evaluate`."""
    scores = caad_ds.evaluate(model=model, benchmark=benchmark, out=out)
    print(json.dumps(scores["groups"]["all"] if "groups" in scores else scores["dimensions"], indent=2))  # of any kind
    return scores


if __name__ == "__main__":
    main(*sys.argv[1:])
