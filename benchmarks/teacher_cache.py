"""Speed of reading a teacher cache in random order, compared with a bare pread loop over the same offsets.

    python -m benchmarks.teacher_cache [--gb 4] [--folder DIR] [--batch 8] [--rounds 3] [--tiny]

Segments of random rows at the paper's size (Ht 4096, bfloat16, both passes, 96 rows a sample) are written below
--folder and removed at the end. A pass reads every sample once, in batches, through `Store`, as training does, or
through `os.pread`; the two take turns, each in its own random order. The first pass of a store also checks sha256.
`cold` passes drop the page cache before (posix_fadvise; a virtual disk may have a cache beneath). The reference is
training's rate: a batch per step of 0.1 s.
"""

import argparse
import contextlib
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import cpu_name
from caad_ds.data.stored_states import StoredStates
from caad_ds.distill.teacher_cache.cache_store import Store
from caad_ds.distill.teacher_cache.row_layout import Layout, as_bytes
from caad_ds.distill.teacher_cache.segments import ROWS, SEGMENT_BYTES, Segment, SegmentWriter, read_segments

WIDTH, ANSWER = 4096, 96
STEP = 0.1  # seconds


def main(argv: list[str] | None = None) -> None:
    """Write the segments, read them, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=4.0, help="size of the cache (default %(default)s)")
    parser.add_argument("--folder", type=Path, help="where it is written (default: the folder for temporary files)")
    parser.add_argument("--batch", type=int, default=8, help="samples of a batch (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="passes of each kind (default %(default)s)")
    parser.add_argument("--tiny", action="store_true", help="tries the script: rows of 64, some megabytes")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    layout = Layout("pair", 64 if args.tiny else WIDTH, "bf16")
    size = 4 * 2**20 if args.tiny else int(args.gb * 1e9)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        made = write(folder, layout, size)
        print(page(folder, layout, made, args.batch, args.rounds))


def write(folder: Path, layout: Layout, size: int) -> list[Segment]:
    """Write segments of random rows, at least `size` bytes."""
    writer = SegmentWriter(folder, "00000")
    parts = layout.empty(ANSWER)
    rng = np.random.default_rng(0)
    number = written = 0
    while written < size:
        for part in parts:
            as_bytes(part)[:] = rng.bytes(part.numel() * part.element_size())
        writer.add(f"s{number}", f"{number:032x}", ANSWER, parts)
        number += 1
        written += ANSWER * layout.bytes_per_row
        if writer.size >= SEGMENT_BYTES:
            writer.finish()
    writer.finish()
    return read_segments(folder)


def page(folder: Path, layout: Layout, segments: Sequence[Segment], batch: int, rounds: int) -> str:
    """Measure the passes; returns a table of medians as text."""
    places = [(segment.name, entry) for segment in segments for entry in segment.entries]
    each = ANSWER * layout.bytes_per_row
    gb = len(places) * each / 1e9
    rng = np.random.default_rng(1)

    def order() -> list[np.ndarray]:
        shuffled = rng.permutation(len(places))
        return [shuffled[start : start + batch] for start in range(0, len(places), batch)]

    def through(store: Store) -> Callable[[], None]:
        def work() -> None:
            for numbers in order():
                contents = [places[number][1].content for number in numbers]
                keys = [places[number][1].key for number in numbers]
                empty = StoredStates(contents, torch.zeros(len(contents), dtype=torch.bool))
                assert store.filled(empty, keys, [ANSWER] * len(contents)).complete

        return work

    files = {segment.name: os.open(folder / (segment.name + ROWS), os.O_RDONLY) for segment in segments}

    def bare() -> None:
        for numbers in order():
            for number in numbers:
                name, entry = places[number]
                assert len(os.pread(files[name], each, entry.offset)) == each

    lines = ["| pages | first pass, with sha256: GB/s | later passes: GB/s | bare pread: GB/s | later / bare |"]
    lines += ["|---|---|---|---|---|"]
    checked = 0.0
    for state, drops in (("in memory", False), ("cold", True)):
        taken: dict[str, list[float]] = {"first": [], "later": [], "bare": []}
        store = Store(folder, layout)
        through(store)()
        for turn in range(rounds + 1):
            passes: dict[str, Callable[[], None]] = {
                "bare": bare, "later": through(store), "first": through(Store(folder, layout)),
            }  # fmt: skip
            for name in taken if turn % 2 else reversed(taken):
                if drops:
                    forget(files.values())
                start = time.perf_counter()
                passes[name]()
                taken[name].append(time.perf_counter() - start)
        rates = {name: [gb / seconds for seconds in values[1:]] for name, values in taken.items()}
        middle = {name: statistics.median(values) for name, values in rates.items()}
        ratio = statistics.median(later / bare for later, bare in zip(rates["later"], rates["bare"], strict=True))
        lines.append(
            f"| {state} | {middle['first']:.2f} | {middle['later']:.2f} | {middle['bare']:.2f} | {ratio:.2f} |"
        )
        checked = checked or middle["first"]
    for descriptor in files.values():
        os.close(descriptor)
    need = batch * each / 1e9 / STEP
    head = (
        f"torch {torch.__version__}, Python {platform.python_version()}, {cpu_name()}, one thread; "
        f"{gb:.1f} GB in {len(segments)} segments, {len(places)} samples of {each / 1e6:.2f} MB, {batch} a batch, "
        f"{rounds} passes"
    )
    foot = (
        f"Training reads {batch} samples in {STEP:g} s, {need:.3f} GB/s: a first pass from memory gives "
        f"{checked / need:.0f} times that."
    )
    return "\n".join([head, "", *lines, "", foot])


def forget(descriptors: Sequence[int]) -> None:
    """Drop the files' pages from the page cache, if the platform supports it."""
    for descriptor in descriptors:
        os.fsync(descriptor)
        with contextlib.suppress(AttributeError, OSError):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main()
