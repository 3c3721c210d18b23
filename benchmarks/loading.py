"""Time of computing a batch's audio inputs with a family's processor, compared with a step on an H100.

    python -m benchmarks.loading [--clips 8] [--seconds 30] [--rounds 5] [--workers 1 2 4] [--out FILE]

Features of `--clips` noise clips are computed as in training: once for zero_mel and text_only, twice for silence, noise
and shuffled. The extractor is Qwen2-Audio's (Whisper's with 128 mel bins over 30 s), the tokenizer a small one. The
floor is a step of 0.25 s on an H100: above it the GPU waits, unless `data.workers` threads read ahead. CPU time is
shown too, since it does not depend on other work on the machine.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import cpu_name
from caad_ds.data.audio.usable_audio import SAMPLE_RATE
from caad_ds.models.families.qwen2_audio import FAMILY
from caad_ds.models.processor_reader import ProcessorReader
from tests.models.families.tiny.qwen2_audio import processor

FLOOR = 0.25  # seconds of an H100's step at 8 clips
ONCE_TWICE = "zero_mel, text_only", "silence, noise, shuffled"  # negatives by how often features are made


def main() -> None:
    """Measure and print a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)  # one core per worker thread
    reader = ProcessorReader(processor(mels=128, seconds=30), FAMILY)
    rng = np.random.default_rng(0)
    samples = int(args.seconds * SAMPLE_RATE)
    clips = [(0.1 * rng.standard_normal(samples)).astype(np.float32) for _ in range(args.clips)]
    one = timed(lambda: reader.features(clips[:1]), args.rounds)
    page = [
        f"torch {torch.__version__}, {cpu_name()}, one thread each; {args.clips} clips of "
        f"{args.seconds:g} s, 128 mel bins; the floor is a step of {FLOOR} s",
        "",
        f"One clip: {1e3 * one[0]:.1f} ms, {1e3 * one[1]:.1f} ms of CPU time.",
        "",
        "| workers | " + " | ".join(f"{names}: ms | of the floor | CPU, ms" for names in ONCE_TWICE) + " |",
        "|" + " ---: |" * 7,
    ]
    for workers in args.workers:
        times = [
            throughput(lambda n=n: [reader.features(clips) for _ in range(n)], workers, args.rounds) for n in (1, 2)
        ]
        cells = [f"{1e3 * took:.0f} | {took / FLOOR:.2f} | {1e3 * cpu:.0f}" for took, cpu in times]
        page.append(f"| {workers} | " + " | ".join(cells) + " |")
    print("\n".join(page))
    if args.out is not None:
        args.out.write_text("\n".join(page) + "\n", encoding="utf-8")


def timed(work: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Return the median wall-clock and CPU seconds of a call, after a warm-up."""
    work()
    took = [throughput(work, 1, 1) for _ in range(rounds)]
    return statistics.median(clock for clock, _ in took), statistics.median(cpu for _, cpu in took)


def throughput(work: Callable[[], object], workers: int, rounds: int) -> tuple[float, float]:
    """Return wall-clock and CPU seconds per call with `workers` threads that compute batches like the loader's."""
    calls = workers * rounds
    with ThreadPoolExecutor(workers) as pool:
        clock, cpu = time.perf_counter(), time.process_time()
        for made in [pool.submit(work) for _ in range(calls)]:
            made.result()
        return (time.perf_counter() - clock) / calls, (time.process_time() - cpu) / calls


if __name__ == "__main__":
    main()
