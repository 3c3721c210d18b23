"""Evaluate a model on a benchmark: python -m examples.api.evaluate MODEL BENCHMARK OUT [--data FOLDER]."""

import json

import caad_ds


def main(model: str, benchmark: str, out: str, data: str | None = None) -> dict:
    """Answer and score every item; `out` holds predictions and scores, as of `caad-ds evaluate`."""
    scores = caad_ds.evaluate(model=model, benchmark=benchmark, out=out, data=data)
    print(json.dumps(scores["groups"]["all"] if "groups" in scores else scores["dimensions"], indent=2))  # of any kind
    return scores


if __name__ == "__main__":
    from examples.api.script import run

    run(main)
