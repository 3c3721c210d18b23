"""What an evaluation is one of: the model, the benchmark and the decoding that decide its answers."""

import argparse
import hashlib
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

from caad_ds.evaluation.benchmarks.benchmark import Benchmark
from caad_ds.evaluation.benchmarks.items import Clip, Item
from caad_ds.models.folder_hash import model_hash


def identity(args: argparse.Namespace, benchmark: Benchmark, sha256: Callable[[Clip], str]) -> dict:
    """The setup that decides the predictions, alike for what decodes alike; batch size and device do not.

    `sha256` hashes a clip, as `Clip.sha256` does.
    """
    contrasted = args.contrast_alpha is not None
    suffix = f" + CD {args.contrast_alpha:g} {args.negative}" if contrasted else ""
    return {
        "name": args.name or run_name(args.model.resolve()) + suffix,
        "model_sha256": model_hash(args.model),
        "benchmark": benchmark.kind,
        "benchmark_sha256": fingerprint(benchmark, sha256),
        "contrast_alpha": args.contrast_alpha,
        "negative": args.negative if contrasted else None,
        "plausibility": args.plausibility,
        "temperature": args.temperature,
        "top_p": None if args.top_p == 1 else args.top_p,
        "top_k": args.top_k,
        "seed": None if args.temperature is None else args.seed or 0,
        "max_new_tokens": args.max_new_tokens,
        "dtype": args.dtype,
    }


def run_name(folder: Path) -> str:
    """What tables call a model: its folder's name; of `RUN/model`, which is where `train` writes it, the run's."""
    return folder.parent.name if folder.name == "model" else folder.name


def fingerprint(benchmark: Benchmark, sha256: Callable[[Clip], str] | None = None) -> str:
    """sha256 over all that the model is asked and scored by; of the clips, their bytes."""
    sha256 = sha256 or cache(Clip.sha256)  # several items ask about one clip

    def facts(item: Item) -> list:
        clips = [[sha256(clip), clip.text] for clip in item.clips]
        return [item.id, item.condition, list(item.messages), item.gt, clips]

    digest = hashlib.sha256(json.dumps(benchmark.options, sort_keys=True).encode())
    for item in benchmark.items:
        digest.update(json.dumps(facts(item), sort_keys=True).encode())
    return digest.hexdigest()
