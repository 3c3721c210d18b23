"""`caad-ds speed`: size and speed of a teacher, of its students, and of each with contrastive decoding.

Every system answers the same items with the same number of tokens. The systems take turns in every round, so a machine
that slows down affects all of them.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from caad_ds.config.objective_section import NEGATIVES
from caad_ds.evaluation.benchmarks.benchmark_kinds import load, named
from caad_ds.evaluation.benchmarks.items import Item, rows_of
from caad_ds.evaluation.speed.measure import Clock, Timing, description, spread, synchronize, timed
from caad_ds.evaluation.speed.result import Speeds, save
from caad_ds.generation.decoding import Contrast, generate
from caad_ds.generation.decoding_settings import (
    DTYPES,
    check_above_zero,
    check_choice,
    check_counts,
    check_gate,
    gate_name,
)
from caad_ds.generation.model import Model
from caad_ds.utils.device import pick_device
from caad_ds.utils.errors import UserError
from caad_ds.utils.memory import PeakMemory
from caad_ds.utils.model_names import model_folder
from caad_ds.utils.paths import existing
from caad_ds.utils.progress import progress


@dataclass(frozen=True)
class System:
    """A model and its decoding; `others` are the items that negative `shuffled` takes audio from."""

    loaded: Model
    contrasted: Contrast | None
    others: Sequence[Item] = ()

    def answer(self, items: Sequence[Item], tokens: int) -> tuple[float, Timing]:
        """Answer items with exactly `tokens` tokens each; return seconds of audio encoding and the decoding times."""
        loaded, clips = self.loaded, self.loaded.clips(self.others)
        second = None
        with _Timer(loaded.device) as timer:
            clips.encode(items)
        batch, audio = clips.prompts(items), timer.seconds
        if self.contrasted is not None:
            with _Timer(loaded.device) as timer:
                second = clips.negative(items, batch, self.contrasted.negative)
            audio += timer.seconds
        clock = Clock(loaded, len(items))
        generate(
            loaded.lm, batch,
            max_new_tokens=tokens, min_new_tokens=tokens, contrasted=self.contrasted, negative=second, streamer=clock,
        )  # fmt: skip
        return audio, clock.timing


class _Timer:
    """Measure the seconds that a block takes on a device."""

    def __init__(self, device: torch.device):
        self._device, self.seconds = device, 0.0

    def __enter__(self) -> "_Timer":
        synchronize(self._device)
        self._began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        synchronize(self._device)
        self.seconds = time.perf_counter() - self._began


def compare_speed(
    models: Mapping[str, str | Path],
    benchmark: str | Path,
    *,
    data: str | Path | None = None,
    contrast_alpha: float | None = None,
    negative: str = "zero_mel",
    batch_size: int = 8,
    tokens: int = 32,
    rounds: int = 5,
    device: str | None = None,
    dtype: str = "float32",
    out: str | Path | None = None,
    alpha_gate: str = "none",
    gate_m: float = 2.0,
) -> Speeds:
    """Measure size and speed of models on the same items, as `caad-ds speed` does; ratios are to the first model.

    Args:
        models: folders of models, or of the runs that trained them, or hub ids, by their names in tables.
        benchmark: as `evaluate` takes it.
        data: folder of the files of a described benchmark.
        contrast_alpha: measure each model also with contrastive decoding with this alpha.
        negative: input of the second path: zero_mel, silence, noise, text_only or shuffled.
        batch_size: batch size measured besides 1.
        tokens: tokens per answer.
        rounds: timed rounds.
        device: cpu, cuda, cuda:1, ...; None: cuda if there is one.
        dtype: of the models, float32 or bfloat16.
        out: folder for speed.md and speed.json; None: nothing is written.
        alpha_gate: gate of the contrast: none, or text_certainty (experimental).
        gate_m: the gate's m.

    Raises:
        UserError: a value is out of range, a path holds something else, or a clip cannot be decoded.
    """
    if not models:
        raise UserError("--models: give NAME=MODEL, each name once")
    check_above_zero("--contrast-alpha", contrast_alpha)
    check_gate(contrast_alpha, alpha_gate, gate_m)
    check_choice("--negative", negative, NEGATIVES)
    check_choice("--dtype", dtype, DTYPES)
    check_counts(batch_size=batch_size, tokens=tokens, rounds=rounds)
    folders, path = {name: model_folder(folder) for name, folder in models.items()}, named(benchmark)
    items, others = _items(path, None if data is None else existing(data), batch_size)
    systems: dict[str, System] = {}
    chosen = pick_device(device)
    for name, folder in folders.items():
        with progress(f"loading {folder}"):
            loaded = Model.load(folder, chosen, dtype)
            systems[name] = System(loaded, None)
            if contrast_alpha is not None:
                contrasted = Contrast(contrast_alpha, negative, None, alpha_gate, gate_m)
                label = f"{name} + CD {contrast_alpha:g} {negative}{gate_name(alpha_gate, gate_m)}"
                systems[label] = System(loaded, contrasted, others)
        _check_clips(loaded, items)
    found = Speeds(measure(systems, items, tokens, rounds), tokens, rounds, path.resolve().name)
    if out is not None:
        save(found, Path(out))
    return found


def measure(systems: dict[str, System], items: Sequence[Item], tokens: int, rounds: int) -> dict[str, dict]:
    """Measure the `speed` of each system (speed_tables.py) at batch 1 and with all items at once, after a warm-up."""
    sizes = sorted({1, len(items)})
    found: dict[tuple[str, int], list[tuple[float, Timing]]] = {(s, n): [] for s in systems for n in sizes}
    working = {}
    with progress("measuring", (rounds + 2) * len(systems)) as advance:
        for turn in range(rounds + 1):
            for name, system in systems.items():
                for size in sizes:
                    batch = items if size > 1 else [items[turn % len(items)]]
                    timings = system.answer(batch, tokens)
                    if turn:
                        found[name, size].append(timings)
                advance(1)
        for name, system in systems.items():
            peak = PeakMemory(system.loaded.device)
            system.answer(items, tokens)
            working[name] = peak.mib()
            advance(1)
    return {
        name: description(system.loaded, working[name], [_run(found[name, size], size) for size in sizes])
        for name, system in systems.items()
    }


def _run(found: list[tuple[float, Timing]], size: int) -> dict:
    encoder = spread([1e3 * seconds for seconds, _ in found])
    return {**timed([timing for _, timing in found], size), "encoder_ms": encoder}


def _items(path: Path, data: Path | None, count: int) -> tuple[list[Item], list[Item]]:
    """Return `count` items, of different rows as far as possible, and all items."""
    by_row = [row.variants for row in rows_of(load(path, None, max(2, count), data).items)]  # two: one may be a partner
    items = [item for condition in zip(*by_row, strict=True) for item in condition]
    if len(items) < count:
        raise UserError(f"{path}: has {len(items)} items; give --batch-size {len(items)} or a larger benchmark")
    return items[:count], items


def _check_clips(loaded: Model, items: Sequence[Item]) -> None:
    clips = loaded.clips()
    if len(clips.encode(items)) < len(items):
        path, reason = next(iter(clips.failed.items()))
        raise UserError(f"{path}: {reason}; fix the clip, or leave its row out of the benchmark")
