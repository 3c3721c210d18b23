"""Identity of an evaluation: the model, the benchmark and the decoding that determine its answers."""

import hashlib
import json
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from caad_ds.evaluation.benchmarks.benchmark import Benchmark
from caad_ds.evaluation.benchmarks.items import Clip, Item
from caad_ds.generation.decoding_settings import Decoding, gate_name, gate_settings
from caad_ds.models.model_hashes import model_hash
from caad_ds.utils.model_names import run_name


def identity(
    model: Path,
    benchmark: Benchmark,
    decoding: Decoding,
    *,
    name: str | None,
    dtype: str,
    sha256: Callable[[Clip], str],
) -> dict:
    """Return the setup that determines the predictions; it excludes batch size and device.

    `name` is the name in tables, by default that of the model and the contrast. `sha256` hashes a clip, like
    `Clip.sha256`.
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
    """Return the sha256 of all prompts, clip bytes and labels of a benchmark, or of some `items` of it."""
    sha256 = sha256 or cache(Clip.sha256)  # several items share a clip

    def facts(item: Item) -> list:
        clips = [[sha256(clip), clip.text] for clip in item.clips]
        choices = [list(item.choices)] if item.choices else []  # omitted if empty: hashes of older versions stay valid
        return [item.id, item.condition, list(item.messages), item.gt, clips, *choices]

    digest = hashlib.sha256(json.dumps(benchmark.options, sort_keys=True).encode())
    for item in benchmark.items if items is None else items:
        digest.update(json.dumps(facts(item), sort_keys=True).encode())
    return digest.hexdigest()
