"""Preparation of a large manifest: `python benchmarks/data_prep_scale.py --records 1000000`.

A generated manifest (every record names one of a few short clips) goes through ingest, describe, pseudo-gt as two
parts of an array job, and merge. Each step is a process; its time and peak resident memory are printed.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from caad_ds.data.instructions import Instructions
from caad_ds.utils.command import positive

ROOT = Path(__file__).parents[1]
INSTRUCTIONS = ROOT / "configs" / "demo" / "instructions.yaml"
CLIPS = 100
SECONDS = 0.5


def main(argv: list[str] | None = None) -> int:
    """Run the steps and print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks/data_prep_scale.py", description=__doc__)
    parser.add_argument("--records", type=positive, default=1_000_000, help="(1,000,000)")
    parser.add_argument("--workers", type=positive, default=os.cpu_count(), help="of ingest (all cores)")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        generate(Path(folder), args.records)
        print(
            f"{args.records:,} records, {CLIPS} clips of {SECONDS:g} s, {args.workers} workers, {os.cpu_count()} cores"
        )
        print("\n| step | seconds | records a second | peak memory MiB |\n|---|---:|---:|---:|")
        for name, arguments in steps(Path(folder), args.workers):
            seconds, peak = measured(arguments)
            print(f"| {name} | {seconds:.1f} | {args.records / seconds:,.0f} | {peak:.0f} |", flush=True)
    return 0


def generate(folder: Path, count: int) -> None:
    """Write the clips and a JSONL file for `prep ingest jsonl`."""
    noise = np.random.default_rng(0).standard_normal((CLIPS, int(SECONDS * 16_000))) * 0.1
    for number, wave in enumerate(noise):
        soundfile.write(folder / f"{number}.wav", wave, 16_000)
    options = {key: list(attribute.options) for key, attribute in Instructions.load(INSTRUCTIONS).attributes.items()}
    with open(folder / "own.jsonl", "w", encoding="utf-8") as lines:
        for number in range(count):
            values = {key: values[number % len(values)] for key, values in options.items()}
            row = {"id": f"utterance-{number:09d}", "audio": f"{number % CLIPS}.wav", "text": "the dog finds bread"}
            lines.write(json.dumps(row | values) + "\n")


def steps(folder: Path, workers: int) -> list[tuple[str, list]]:
    """Return the commands in order."""
    manifest, described, answered = (folder / f"{name}.jsonl" for name in ("manifest", "described", "answered"))
    pseudo_gt = ["pseudo-gt", "--manifest", described, "--out", answered, "--engine", "template"]
    return [
        ("ingest", ["ingest", "jsonl", "--root", folder / "own.jsonl", "--out", manifest, "--workers", workers]),
        ("describe", ["describe", "--manifest", manifest, "--out", described, "--instructions", INSTRUCTIONS]),
        ("pseudo-gt, part 0 of 2", [*pseudo_gt, "--shard", "0/2"]),
        ("pseudo-gt, part 1 of 2", [*pseudo_gt, "--shard", "1/2"]),
        ("merge", ["merge", "--manifest", described, "--out", answered]),
    ]


def measured(arguments: list) -> tuple[float, float]:
    """Run a step with its output on stderr; returns seconds and peak resident MiB of the largest process."""
    began = time.monotonic()
    process = os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "caad_ds.cli", "prep", *map(str, arguments)],
        {**os.environ, "PYTHONPATH": str(ROOT)},
        file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)],
    )
    _, status, usage = os.wait4(process, 0)
    if status:
        raise SystemExit(f"caad-ds prep {arguments[0]} failed with status {os.waitstatus_to_exitcode(status)}")
    return time.monotonic() - began, usage.ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
