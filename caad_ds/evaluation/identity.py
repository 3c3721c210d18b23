"""What an evaluation is one of: the model, the benchmark and the decoding that decide its answers."""

import hashlib
import json
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from caad_ds.evaluation.benchmarks.benchmark import Benchmark
from caad_ds.evaluation.benchmarks.items import Clip, Item
from caad_ds.generation.decoding_settings import Decoding, gate_name, gate_settings
from caad_ds.models.folder_hash import model_hash
from caad_ds.utils.paths import run_name


def identity(
    model: Path,
    benchmark: Benchmark,
    decoding: Decoding,
    *,
    name: str | None,
    dtype: str,
    sha256: Callable[[Clip], str],
) -> dict:
    """The setup that decides the predictions, alike for what decodes alike; batch size and device do not.

    `name` is what tables call it, by default the model's with the contrast. `sha256` hashes a clip, as `Clip.sha256`
    does.
    """
    contrasted = decoding.contrast_alpha is not None
    gate = decoding.alpha_gate, decoding.gate_m
    suffix = f" + CD {decoding.contrast_alpha:g} {decoding.negative}{gate_name(*gate)}" if contrasted else ""
    return {
        "name": name or run_name(model) + suffix,
        "model_sha256": model_hash(model),
        "benchmark": benchmark.kind,
        "benchmark_sha256": fingerprint(benchmark, sha256),
        "contrast_alpha": decoding.contrast_alpha,
        "negative": decoding.negative if contrasted else None,
        "plausibility": decoding.plausibility,
        "temperature": decoding.temperature,
        "top_p": None if decoding.top_p == 1 else decoding.top_p,
        "top_k": decoding.top_k,
        "seed": None if decoding.temperature is None else decoding.seed or 0,
        "max_new_tokens": decoding.max_new_tokens,
        "dtype": dtype,
        **gate_settings(*gate),
        **benchmark.setup,
    }


def fingerprint(
    benchmark: Benchmark, sha256: Callable[[Clip], str] | None = None, items: Iterable[Item] | None = None
) -> str:
    """sha256 over all that the model is asked and scored by, or over some `items` of it; of the clips, their bytes."""
    sha256 = sha256 or cache(Clip.sha256)  # several items ask about one clip

    def facts(item: Item) -> list:
        clips = [[sha256(clip), clip.text] for clip in item.clips]
        own = [list(item.choices)] if item.choices else []  # what has none is known by the hash that it always had
        return [item.id, item.condition, list(item.messages), item.gt, clips, *own]

    digest = hashlib.sha256(json.dumps(benchmark.options, sort_keys=True).encode())
    for item in benchmark.items if items is None else items:
        digest.update(json.dumps(facts(item), sort_keys=True).encode())
    return digest.hexdigest()
