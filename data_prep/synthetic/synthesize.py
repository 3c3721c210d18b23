"""`prep synthesize`: generate the demo's corpus of short sentences with attributes that only the audio reveals.

Gender, speaking rate, noise and accent are drawn independently. The splits share neither voices nor sentences.
"""

import argparse
import json
import multiprocessing
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

from caad_ds.utils.errors import UserError
from caad_ds.utils.files import disk_errors, read_json, write_json, write_jsonl
from caad_ds.utils.formatting import counted
from caad_ds.utils.progress import track
from data_prep.synthetic.speech_clips import DEFAULT, SPLITS, Difficulty, render

SETTINGS, METADATA = "settings.json", "metadata.jsonl"


def register(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--root", type=Path, required=True, help="folder that gets one folder per split")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes; the corpus does not depend on it")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=list(SPLITS), help="which ones (default: all)")
    for name, split in SPLITS.items():
        parser.add_argument(
            f"--{name}", type=int, default=split.size, metavar="N", help=f"clips (default {split.size})"
        )


def run(args: argparse.Namespace) -> int:
    """Generate the requested splits that do not exist yet."""
    for name in args.splits:
        synthesize(args.root, name, getattr(args, name), seed=args.seed, workers=args.workers)
    return 0


def synthesize(
    root: Path, split: str, size: int, *, seed: int = 0, workers: int = 2, difficulty: Difficulty = DEFAULT
) -> None:
    """Write `<root>/<split>/<id>.wav` (16-bit, 16 kHz) and, after all of them, `metadata.jsonl`.

    A finished split with the same settings is left alone; one with other settings is generated again.
    """
    folder = root / split
    settings = {"seed": seed, "size": size, "difficulty": asdict(difficulty), "split": repr(SPLITS[split])}
    if _finished(folder, settings):
        print(f"{folder}: already finished, nothing to do")
        return
    if size < 1 or workers < 1:
        raise UserError(f"split {split}: {size} clips with {workers} workers cannot be made; both must be at least 1")
    _clear(folder)
    write_json(folder / SETTINGS, settings)
    with disk_errors(folder):
        rows = _render_all(partial(render, folder, split, seed, difficulty), size, workers, f"synthesize {split}")
    write_jsonl(folder / METADATA, rows)
    print(f"{folder}: {counted(size, 'clip')}, {sum(row['duration'] for row in rows) / 60:.1f} minutes")


def _render_all(render_one: Callable[[int], dict], size: int, workers: int, what: str) -> list[dict]:
    context = multiprocessing.get_context("spawn")  # a fork would inherit threads of libraries in mid-step
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        return list(track(pool.map(render_one, range(size), chunksize=8), what, size))


def _finished(folder: Path, settings: dict) -> bool:
    if not (folder / METADATA).exists() or not (folder / SETTINGS).exists():
        return False
    written = read_json(folder / SETTINGS, f"remove {folder} to make the split again")
    return written == json.loads(json.dumps(settings))


def _clear(folder: Path) -> None:
    if not folder.exists():
        return
    if not (folder / SETTINGS).exists():
        raise UserError(f"{folder}: it exists and is no split of the demo (no {SETTINGS}); choose another --root")
    shutil.rmtree(folder)
