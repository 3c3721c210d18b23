"""`prep verify`: check shards for damage, duplicates and held-out audio, or check a teacher cache."""

import argparse
import hashlib
from array import array
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from caad_ds.data.shard_index import FILE_NAME, Shard, ShardIndex
from caad_ds.utils.command import positive
from caad_ds.utils.errors import UserError
from caad_ds.utils.fault_list import EXAMPLES, Faults, kind_of
from caad_ds.utils.files import write_atomic
from caad_ds.utils.formatting import counted
from caad_ds.utils.paths import page_file
from caad_ds.utils.progress import progress, waiting
from data_prep.common.jsonl import Rejected, read_rows
from data_prep.common.parallel import ordered
from data_prep.common.rejects import rejected_path
from data_prep.verify.contents import shown
from data_prep.verify.disjoint import SPEAKERS, Values, compared, faults
from data_prep.verify.duplicates import find_duplicates
from data_prep.verify.findings import Findings
from data_prep.verify.held_out import HeldOut
from data_prep.verify.missing_records import unaccounted
from data_prep.verify.shard_check import DIGEST, ShardReport, check_shard

FAULT_CHARACTERS = 600
CACHE_FILE = "cache.json"
SHARD_OPTIONS = ("--manifest", "--against", "--disjoint", "--overview")
CACHE_OPTIONS = ("--covers", "--drop-damaged")


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `prep verify`."""
    parser.add_argument("folder", type=Path, help="shards (with index.json), or a teacher cache (with cache.json)")
    parser.add_argument("--manifest", type=Path, metavar="FILE", help="what was packed: each record must be accounted")
    parser.add_argument(
        "--against",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="PATH",
        help="shards, benchmarks (MCR-BENCH's format) or manifests whose audio must not be in the folder",
    )
    parser.add_argument(
        "--disjoint", nargs="*", metavar="COLUMN",
        help="metadata whose values must not be on both sides of --against; without a name none is compared (default: "
        f"what both have of {', '.join(SPEAKERS)})",
    )  # fmt: skip
    parser.add_argument(
        "--overview", type=page_file, metavar="FILE", help="write a page (.html) about what the shards hold"
    )
    parser.add_argument("--workers", type=positive, default=1, help="processes that check (default %(default)s)")
    cache = parser.add_argument_group("a teacher cache")
    cache.add_argument(
        "--covers", type=Path, nargs="+", action="extend", default=[], metavar="SHARDS",
        help="shards each of whose samples must have rows in the cache",
    )  # fmt: skip
    cache.add_argument(
        "--drop-damaged", action="store_true",
        help="take damaged samples out of the cache, so that the next filling computes them again",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Check everything; print each fault and the statistics, exit status 1 if there is a fault."""
    if (args.folder / CACHE_FILE).exists():
        return _run_cache(args)
    _refuse(args, CACHE_OPTIONS, f"it is for a teacher cache, and {args.folder} has no cache.json")
    if args.disjoint and not args.against:
        raise UserError("--disjoint compares with what --against names; give that as well")
    found = verify(args.folder, args.manifest, args.against, args.workers, args.disjoint)
    for line in [*fault_lines(found.faults, found.index.folder / "index.faults.txt"), *summary_lines(found)]:
        print(line)
    if args.overview:
        from data_prep.verify.overview import write_overview  # takes a second to import

        write_overview(args.overview, found)
        print(f"overview: {args.overview}")
    shards = found.index.file.shards
    samples, faults = counted(len(found.index), "sample"), counted(len(found.faults), "fault")
    print(f"{args.folder}: {samples} in {counted(len(shards), 'shard')}, {faults}")
    return 1 if found.faults else 0


def _run_cache(args: argparse.Namespace) -> int:
    from data_prep.verify import teacher_cache  # it imports torch

    _refuse(args, SHARD_OPTIONS, f"it is for shards, and {args.folder} is a teacher cache")
    found = teacher_cache.verify_cache(args.folder, args.covers, args.drop_damaged, args.workers)
    faults = [shown(fault, FAULT_CHARACTERS) for fault in found.faults]
    for line in [*fault_lines(faults, args.folder / teacher_cache.FAULTS), *teacher_cache.summary_lines(found)]:
        print(line)
    print(f"{args.folder}: {counted(len(found.segments), 'segment')}, {counted(len(faults), 'fault')}")
    return 1 if faults else 0


def _refuse(args: argparse.Namespace, options: Sequence[str], why: str) -> None:
    for option in options:
        value = getattr(args, option.removeprefix("--").replace("-", "_"))
        if value or (value == [] and option == "--disjoint"):  # --disjoint may be given without a column
            raise UserError(f"{option}: {why}; leave it out")


def verify(
    folder: Path,
    manifest: Path | None = None,
    against: list[Path] | None = None,
    workers: int = 1,
    disjoint: Sequence[str] | None = None,
) -> Findings:
    """Check a folder of shards: its records against `manifest`, its audio and metadata against the held-out data.

    `disjoint` names the metadata columns whose values must differ (None: those that look like speakers). Raises
    UserError for an index that cannot be read, and for an invalid manifest or `against`.
    """
    held_out = HeldOut(SPEAKERS if disjoint is None else tuple(dict.fromkeys(disjoint)))
    with waiting(f"reading {folder / FILE_NAME}"):
        found = Findings(ShardIndex.load(folder, check_files=False), held_out)
    for path in against or []:
        held_out.add(path, workers)
    found.faults += held_out.faults
    _check_listing(found)
    _check_shards(found, workers)
    for name, there in held_out.values.items():
        found.faults += faults(found.values, there, name, named=disjoint is not None)
    _check_accounts(found, manifest)
    found.faults = [shown(fault, FAULT_CHARACTERS) for fault in found.faults]
    return found


def fault_lines(faults: list[str], path: Path) -> list[str]:
    """Return the faults; of many, the number of each kind with examples, and write all to the file `path`.

    Returns all of them if that file cannot be written.
    """
    if len(faults) <= EXAMPLES:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        return faults
    by_kind = Faults()
    for fault in faults:
        name, _, reason = fault.partition(": ")
        by_kind.add(name, reason)
    try:
        write_atomic(path, "".join(f"{fault}\n" for fault in faults).encode())
    except UserError:
        return faults
    return by_kind.lines("faults", path)


def summary_lines(found: Findings) -> list[str]:
    """Return the statistics, one per line."""
    lines = []
    seconds = np.array([entry.seconds for entry in found.index.samples])
    if len(seconds):
        p95 = np.percentile(seconds, 95)
        lines.append(
            f"durations in seconds: min {seconds.min():.2f}, median {np.median(seconds):.2f}, mean "
            f"{seconds.mean():.2f}, p95 {p95:.2f}, max {seconds.max():.2f}; {seconds.sum() / 3600:.2f} hours"
        )
    copies = len(found.duplicates.copies)
    lines.append(
        f"{counted(found.duplicates.audios, 'different audio')}, {found.duplicates.shared} of them with several prompts"
        + (f"; {counted(copies, 'sample is a copy', 'samples are copies')}" if copies else "")
    )
    lines += [f"compared with {counted(count, 'audio')} of {path}" for path, count in found.held_out.sizes.items()]
    if found.held_out.columns:
        by_column = (compared(found.values, there, path) for path, there in found.held_out.values.items())
        lines += filter(None, by_column)
    return lines


def _check_listing(found: Findings) -> None:
    """Check the index by itself and against the names in the folder."""
    folder, shards = found.index.folder, found.index.file.shards
    if not len(found.index):
        found.faults.append(f"{folder}: its index lists no sample")
    listed = {shard.name for shard in shards}
    found.faults += [
        f"{path}: it is not in the index, a reader of all tars would take it too"
        for path in sorted(folder.glob("*.tar"))
        if path.name not in listed
    ]
    keys: set[str] = set()
    for shard in shards:
        for entry in shard.samples:
            if entry.key in keys:
                found.faults.append(f"{folder / shard.name}, sample {entry.key}: the index lists this key before")
            keys.add(entry.key)


def _check_shards(found: Findings, workers: int) -> None:
    """Check every shard, in parallel, then look for duplicates across shards."""
    index = found.index
    shards = index.file.shards
    numbers, digests, start = array("q"), bytearray(), 0
    columns = found.held_out.columns if found.held_out.values else ()
    found.values = Values(columns)
    reports = ordered(partial(check_shard, folder=index.folder, columns=columns), shards, workers)
    with progress(f"verifying {index.folder}", len(index)) as advance:
        for shard, report in zip(shards, reports, strict=True):
            found.faults += report.faults + _leaks(found, shard, report)
            found.contents.merge(report.contents)
            found.values.merge(report.values)
            for sample in report.samples:
                numbers.append(start + sample.number)
                digests += _joined(sample.audios) + sample.prompt
            start += len(shard.samples)
            advance(len(shard.samples))
    with waiting("looking for duplicates"):
        found.duplicates = find_duplicates(np.frombuffer(numbers, dtype=np.int64), digests)
        for copy, original in found.duplicates.copies:
            shard, entry = index.locate(copy)
            same = index.locate(original)[1].key
            found.faults.append(
                f"{index.folder / shard.name}, sample {entry.key}: the same audio and prompt as sample {same}; "
                "remove one of the two from the manifest, or keep both: training counts it twice"
            )


def _leaks(found: Findings, shard: Shard, report: ShardReport) -> list[str]:
    names = found.held_out.names
    return [
        f"{found.index.folder / shard.name}, sample {shard.samples[sample.number].key}: its audio is held out, it is "
        + names[digest]
        for sample in report.samples
        for digest in dict.fromkeys(sample.audios)
        if digest in names
    ]


def _joined(audios: list[bytes]) -> bytes:
    """Return one digest for all audios of a sample."""
    return audios[0] if len(audios) == 1 else hashlib.sha256(b"".join(audios)).digest()[:DIGEST]


def _check_accounts(found: Findings, manifest: Path | None) -> None:
    """Check the number of rejected records against their list, and the manifest against both."""
    index, path = found.index, rejected_path(found.index.folder / FILE_NAME)
    rejected: Counter[str] = Counter()
    if path.is_file():
        for number, row in read_rows(path):
            if isinstance(row, Rejected) or not isinstance(row.get("id"), str):
                found.faults.append(f"{path} line {number}: it is not a rejected record")
                continue
            rejected[row["id"]] += 1
            found.reasons.add(shown(kind_of(row.get("reason")), 100))
    listed = path.is_file() or manifest is not None
    if listed and rejected.total() != index.file.rejected:
        found.faults.append(
            f"{path}: it lists {counted(rejected.total(), 'record')}, the index counts {index.file.rejected}"
        )
    if manifest:
        found.faults += unaccounted(index, manifest, rejected)
