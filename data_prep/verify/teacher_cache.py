"""`prep verify` of a teacher cache: checks that every sample's rows are intact, and that required samples have rows."""

import errno
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from caad_ds.data.shard_index import ShardIndex
from caad_ds.distill.teacher_cache.cache_store import Store, named
from caad_ds.distill.teacher_cache.filling_state import MARK, PARTS
from caad_ds.distill.teacher_cache.head_file import HEAD, read_head
from caad_ds.distill.teacher_cache.key import KEY, read_key, stored_layout
from caad_ds.distill.teacher_cache.row_layout import Layout
from caad_ds.distill.teacher_cache.segments import (
    INDEX,
    NAME,
    PARTIAL,
    ROWS,
    Entry,
    Segment,
    Unreadable,
    index_files,
    length_fault,
    read_index,
    unreadable,
    write_index,
)
from caad_ds.training.checks.usable_samples import LIST
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import LOCK, disk_errors, sole_writer
from caad_ds.utils.formatting import counted, gigabytes
from caad_ds.utils.progress import progress
from data_prep.common.parallel import ordered

FAULTS = "cache.faults.txt"


@dataclass
class SegmentReport:
    """Findings in a segment.

    Args:
        segment: None if its index cannot be read.
        sound: samples with intact rows, and samples noted as unusable.
        unread: samples whose rows the file system did not deliver: they may be intact, and are never dropped.
        size: bytes of the file of rows, None without one.
        faults: one line each.
        unreadable: whether the file system did not deliver the index, or the length of the rows.
    """

    name: str
    segment: Segment | None = None
    sound: list[Entry] = field(default_factory=list)
    unread: list[Entry] = field(default_factory=list)
    size: int | None = None
    faults: list[str] = field(default_factory=list)
    unreadable: bool = False

    @property
    def kept(self) -> list[Entry]:
        """Return the samples that `--drop-damaged` keeps, in the order of their rows."""
        return sorted(self.sound + self.unread, key=_place)

    @property
    def damaged(self) -> int:
        """Return the number of samples in the index that are damaged."""
        known = self.segment is not None and not self.unreadable
        return len(self.segment.entries) - len(self.kept) if known and self.segment else 0

    @property
    def droppable(self) -> bool:
        """Whether `--drop-damaged` changes the segment."""
        return not self.unreadable and len(self.faults) > len(self.unread)


def _place(entry: Entry) -> tuple[int, int]:
    return entry.offset, entry.rows


@dataclass
class CacheFindings:
    """Findings in a teacher cache.

    Args:
        segments: one report each.
        left_over: files left by a killed process.
        dropped: number of samples that `--drop-damaged` removed from the cache, None if it was not given.
        removed: number of segments that it removed.
        covered: a line per index of `--covers`: how many of its samples have rows.
    """

    folder: Path
    layout: Layout
    faults: list[str] = field(default_factory=list)
    segments: list[SegmentReport] = field(default_factory=list)
    left_over: list[Path] = field(default_factory=list)
    dropped: int | None = None
    removed: int = 0
    covered: list[str] = field(default_factory=list)


def verify_cache(
    folder: Path, covers: Sequence[Path] = (), drop_damaged: bool = False, workers: int = 1
) -> CacheFindings:
    """Read every segment of a cache once and compare it with its index.

    Args:
        covers: folders of shards, each sample of which must have rows.
        drop_damaged: remove damaged samples from the indices, so that the next filling computes them again, and files
            left by killed processes; what cannot be read is kept. No other process may fill the cache meanwhile.

    Raises:
        UserError: `cache.json` or an index of the shards cannot be read, or another process fills the cache.
    """
    if not drop_damaged:
        return _checked(folder, covers, workers, drop=False)
    with sole_writer(folder.resolve(), inside=True):
        return _checked(folder, covers, workers, drop=True)


def summary_lines(found: CacheFindings) -> list[str]:
    """Summarise the cache's content, one line per item."""
    entries = [entry for report in found.segments for entry in report.sound]
    stored = [entry for entry in entries if entry.content]
    unusable, layout = len(entries) - len(stored), found.layout
    size = sum(report.size or 0 for report in found.segments)
    rows = sum(entry.rows for entry in stored)
    doubles = len(stored) - len({entry.content for entry in stored})
    lines = [
        f"{counted(len(stored), 'sound sample')} with {counted(rows, 'row')} of {layout.width} values, form "
        f"{layout.form}, {layout.precision}; {counted(size, 'byte')} ({gigabytes(size)} GB)"
    ]
    if unusable:
        lines.append(f"{counted(unusable, 'sample')} noted as unusable, without rows")
    if doubles:
        lines.append(f"{counted(doubles, 'sample is', 'samples are')} in two segments; the first is read")
    if found.dropped is not None:
        lines.append(
            f"dropped: {counted(found.dropped, 'damaged sample')}, {counted(found.removed, 'segment')} of no use; the "
            "next filling computes what is missing"
        )
    elif any(report.droppable for report in found.segments):
        lines.append("run it again with --drop-damaged, then fill the cache again")
    samples, segments = (sum(len(r.unread) for r in found.segments), sum(r.unreadable for r in found.segments))
    if samples or segments:
        lines.append(
            f"not read, and kept: {counted(samples, 'sample')}, {counted(segments, 'whole segment')}; check "
            "permissions and the file system, then run it again"
        )
    return [*lines, *found.covered]


def check_segment(path: Path, layout: Layout) -> SegmentReport:
    """Compare the index of a segment with the bytes of its rows; faults are reported, not raised."""
    rows = path.with_suffix(ROWS)
    report = SegmentReport(path.stem)
    try:
        report.size = _size(rows)
        segment = report.segment = read_index(path)
        fault = length_fault(path.parent, segment)
    except (Unreadable, OSError) as error:
        report.unreadable = True
        report.faults.append(unreadable(rows, error) if isinstance(error, OSError) else str(error))
        return report
    except UserError as error:
        report.faults.append(str(error))
        return report
    if fault:
        report.faults.append(fault)
    if report.size is None:
        return report
    store = Store(path.parent, layout, segments=[])
    seen: set[str] = set()
    end = 0
    for entry in sorted(segment.entries, key=_place):
        try:
            reason = _fault(store, segment.name, entry, report.size, end)
        except OSError as error:  # of the file system: the rows may be as they were
            report.unread.append(entry)
            report.faults.append(f"{rows}, sample {entry.key}: it cannot be read ({error.strerror})")
            continue
        if reason is None and entry.content and entry.content in seen:
            reason = "the segment has its content twice"
        if reason is not None:
            report.faults.append(f"{rows}, sample {entry.key}: {reason}")
            continue
        seen.add(entry.content)
        report.sound.append(entry)
        end = max(end, entry.offset + entry.rows * layout.bytes_per_row)
    store.close()
    return report


def _size(path: Path) -> int | None:
    """Return the length of a file, None without one; OSError if that cannot be found out."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "no regular file", str(path))
    return found.st_size


def _fault(store: Store, name: str, entry: Entry, size: int, end: int) -> str | None:
    """Return what is wrong with a sample in a file of `size` bytes, whose earlier sound samples end at `end`.

    OSError if its rows cannot be read.
    """
    if not entry.content:
        return "it is noted as unusable, and has rows" if entry.rows else None
    if not entry.rows:
        return "its index says that it has no rows"
    last = entry.offset + entry.rows * store.layout.bytes_per_row
    if last > size:
        return f"its rows end at byte {last}, the file at {size}"
    fault = store.check(name, entry)
    if fault is None and entry.offset < end:
        return "its rows overlap those of another sample"
    return fault


def _checked(folder: Path, covers: Sequence[Path], workers: int, drop: bool) -> CacheFindings:
    stored = read_key(folder)
    if stored is None:
        raise UserError(f"{folder}: it has no {KEY}, so it is no teacher cache; check the path")
    found = CacheFindings(folder, stored_layout(folder, stored))
    indices = [(path, ShardIndex.load(path, check_files=False)) for path in covers]
    found.faults += _head_faults(found)
    paths = index_files(folder)
    reports = ordered(partial(check_segment, layout=found.layout), paths, workers)
    with progress(f"verifying {folder}", len(paths)) as advance:
        for report in reports:
            found.faults += report.faults
            found.segments.append(report)
            advance(1)
    found.faults += _stray(found)
    if drop:
        _drop(found)
    segments = [Segment(r.name, r.size or 0, r.sound) for r in found.segments]
    store = Store(folder, found.layout, segments=segments)
    for path, index in indices:
        lacking = store.lacks(map(named, index.samples))
        found.faults += [f"{path}, sample {key}: the cache has no sound rows of it" for key in lacking]
        more = "; `caad-ds cache-teacher --config FILE` computes those of the others" if lacking else ""
        found.covered.append(f"{path}: {len(index) - len(lacking)} of {counted(len(index), 'sample')} have rows{more}")
    return found


def _head_faults(found: CacheFindings) -> Iterator[str]:
    if not (found.folder / HEAD).exists():
        yield f"{found.folder / HEAD}: it is missing; fill the cache again, which writes it"
        return
    try:
        head = read_head(found.folder)
    except UserError as error:
        yield str(error)
        return
    if head.weight.dim() != 2 or head.weight.shape[1] != found.layout.width:
        yield (
            f"{found.folder / HEAD}: the LM head takes {head.weight.shape[-1]} values, the cache's rows have "
            f"{found.layout.width}; remove the file and fill the cache again, which writes it"
        )


def _stray(found: CacheFindings) -> Iterator[str]:
    """Yield a fault per file that belongs to no segment; collect those left by killed processes."""
    known = {report.name for report in found.segments}
    for path in sorted(found.folder.iterdir()):
        name = path.name
        if (
            name in (KEY, HEAD, FAULTS, LIST, PARTS, LOCK)
            or path.suffix == MARK
            or (name.startswith(".") and name.endswith(LOCK))
        ):
            continue
        if path.suffix in (ROWS, INDEX) and path.stem in known:
            continue
        rows_alone = path.suffix == ROWS and NAME.fullmatch(path.stem)
        if path.is_file() and (rows_alone or name.endswith(PARTIAL)):
            found.left_over.append(path)
            what = "rows without an index" if rows_alone else "a partial file"
            yield f"{path}: {what}, of a filling that was killed or still runs; --drop-damaged removes it"
        else:
            yield f"{path}: it is no file of a teacher cache; move it elsewhere"


def _drop(found: CacheFindings) -> None:
    """Rewrite the indices without damaged samples; remove empty segments and leftover files."""
    found.dropped = 0
    with disk_errors(found.folder):
        for report in found.segments:
            if not report.droppable:
                continue
            found.dropped += report.damaged
            index = found.folder / (report.name + INDEX)
            if report.kept and report.size is not None:
                write_index(found.folder, Segment(report.name, report.size, report.kept))
                continue
            index.unlink()  # first: rows without an index are never read
            with suppress(FileNotFoundError):
                index.with_suffix(ROWS).unlink()
            report.size = None
            found.removed += 1
        for path in found.left_over:
            path.unlink(missing_ok=True)
