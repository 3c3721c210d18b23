"""`caad-ds speed`: size and speed of a teacher, of its students, and of each with contrastive decoding.

Every system answers the same items with the same number of tokens, so that what differs is the system. The systems take
turns in every round: a machine that slows down slows all of them.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from caad_ds.evaluation.benchmarks.items import Item
from caad_ds.evaluation.benchmarks.mcr_bench import Benchmark
from caad_ds.evaluation.report.mlflow_log import (
    Record,
    flat_metrics,
    log_record,
    output_folder,
)
from caad_ds.evaluation.report.tables import markdown, show
from caad_ds.evaluation.speed.figures import LEGEND, speed_metrics, speed_rows
from caad_ds.evaluation.speed.measure import Clock, Timing, description, spread, synchronize, timed
from caad_ds.generation.clips import Clips
from caad_ds.generation.decoding import Contrast, generate
from caad_ds.generation.model import Model
from caad_ds.models.negatives import Negative
from caad_ds.utils.device import pick_device
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import write_atomic, write_json
from caad_ds.utils.memory import PeakMemory
from caad_ds.utils.progress import progress
from caad_ds.utils.terminal_table import Table

TITLE = "Size and speed"


@dataclass(frozen=True)
class System:
    """A model and how it decodes."""

    loaded: Model
    contrasted: Contrast | None

    def answer(self, items: Sequence[Item], tokens: int) -> tuple[float, Timing]:
        """Answers items with exactly `tokens` tokens each; the encoder's seconds, and the rest."""
        loaded, clips = self.loaded, Clips(self.loaded.encoder)
        synchronize(loaded.device)
        began = time.perf_counter()
        clips.hear(items)
        synchronize(loaded.device)
        encoder = time.perf_counter() - began
        batch, states = loaded.prompts(items), clips.states(items)
        clock = Clock(loaded, len(items))
        generate(
            loaded.model, loaded.tokenizer, batch, states,
            max_new_tokens=tokens, min_new_tokens=tokens, contrasted=self.contrasted, streamer=clock,
        )  # fmt: skip
        return encoder, clock.timing


def run(args: argparse.Namespace) -> int:
    """Prints the table, two rows a model with --contrast-alpha; saves it with --out, logs it with --mlflow."""
    items = _items(args.benchmark, args.batch_size)
    systems: dict[str, System] = {}
    device = pick_device(args.device)
    for name, folder in args.models:
        with progress(f"loading {folder}"):
            loaded = Model.load(folder, device, args.dtype)
            systems[name] = System(loaded, None)
            if args.contrast_alpha is not None:
                contrasted = Contrast(args.contrast_alpha, Negative.of(args.negative, loaded.encoder))
                systems[f"{name} + CD {args.contrast_alpha:g} {args.negative}"] = System(loaded, contrasted)
        _check_clips(loaded, items)
    measured = measure(systems, items, args.tokens, args.rounds)
    publish(measured, args)
    return 0


def publish(measured: dict[str, dict], args: argparse.Namespace) -> None:
    """Prints the table; saves it with `args.out` and logs it with `args.mlflow`."""
    setting = f"{args.rounds} rounds, {args.tokens} tokens an answer, {args.benchmark.resolve().name}"
    table = speed_rows(measured)
    show(Table(f"{TITLE}: {setting}", *table), LEGEND)
    with output_folder(args.out) as folder:
        files = [folder / "speed.md", folder / "speed.json"]
        if args.out or args.mlflow:
            text = [f"# {TITLE}", f"{setting}.", markdown(*table), LEGEND]
            write_atomic(files[0], ("\n\n".join(text) + "\n").encode())
            write_json(files[1], {"tokens": args.tokens, "rounds": args.rounds, "systems": measured})
        if args.out:
            show(f"saved {args.out}/speed.md, speed.json")
        params = {"systems": ", ".join(measured), "setting": setting}
        metrics = dict(flat_metrics({name: speed_metrics(speed) for name, speed in measured.items()}))
        log_record(args, folder, Record(TITLE, params, metrics, {"table_shown.json": table}, files, "speed"))


def measure(systems: dict[str, System], items: Sequence[Item], tokens: int, rounds: int) -> dict[str, dict]:
    """The `speed` of each system (speed.py), at batch 1 and with all items at once, after a turn that warms up."""
    sizes = sorted({1, len(items)})
    found: dict[tuple[str, int], list[tuple[float, Timing]]] = {(s, n): [] for s in systems for n in sizes}
    working = {}
    with progress("measuring", (rounds + 2) * len(systems)) as advance:
        for turn in range(rounds + 1):
            for name, system in systems.items():
                for size in sizes:
                    asked = items if size > 1 else [items[turn % len(items)]]
                    took = system.answer(asked, tokens)
                    if turn:
                        found[name, size].append(took)
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


def _items(folder: Path, count: int) -> list[Item]:
    """As many items of different rows as there are, then the rows under their next condition."""
    by_row = [list(row.items()) for row in Benchmark.load(folder, count).rows]
    items = [item for condition in zip(*by_row, strict=True) for item in condition]
    if len(items) < count:
        raise UserError(f"{folder}: has {len(items)} items; give --batch-size {len(items)} or a larger benchmark")
    return items[:count]


def _check_clips(loaded: Model, items: Sequence[Item]) -> None:
    clips = Clips(loaded.encoder)
    if len(clips.hear(items)) < len(items):
        path, reason = next(iter(clips.failed.items()))
        raise UserError(f"{path}: {reason}; fix the clip, or leave its row out of the benchmark")
