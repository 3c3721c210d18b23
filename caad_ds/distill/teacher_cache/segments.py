"""Append-only files of cached rows, each with an index; a segment gets its final name when it is complete."""

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from caad_ds.distill.teacher_cache.filling_state import changing
from caad_ds.distill.teacher_cache.row_layout import as_bytes
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import disk_errors, read_json, write_atomic

ROWS, INDEX, PARTIAL = ".rows", ".json", ".partial"
SEGMENT_BYTES = 256 * 2**20
NAME = re.compile(r"(.+)-(\d{6})")


class Entry(NamedTuple):
    """Location of a sample's rows: `rows` of them, from `offset` on in the segment; sha256 of their bytes.

    `content` is the hash of the sample's text, audio and answer. A sample that cannot be used has neither.
    """

    key: str
    content: str
    offset: int
    rows: int
    sha256: str


@dataclass(frozen=True)
class Segment:
    """A complete file of rows: its name without suffix, its length in bytes, its entries."""

    name: str
    size: int
    entries: Sequence[Entry] = field(default_factory=list)


def write_index(folder: Path, segment: Segment) -> None:
    """Write a segment's index of its rows."""
    content = {"bytes": segment.size, "samples": segment.entries}
    write_atomic(folder / (segment.name + INDEX), json.dumps(content, separators=(",", ":")).encode())


def read_segments(folder: Path, check_files: bool = True) -> list[Segment]:
    """Read all complete segments of a cache, sorted by name.

    UserError if an index cannot be read or, with `check_files`, if a file is missing or has another length.
    """
    segments = []
    for path in index_files(folder):
        segment = read_index(path)
        if check_files and (fault := length_fault(folder, segment)):
            raise UserError(f"{fault}; run `caad-ds prep verify {folder} --drop-damaged`, then fill it again")
        segments.append(segment)
    return segments


def drop_entries(folder: Path, contents: Mapping[str, Collection[str]]) -> None:
    """Remove contents from the indices of segments, by the segments' names; parts of an array job may do so at once.

    UserError if an index cannot be read or written.
    """
    with changing(folder):
        for name, dropped in contents.items():
            segment = read_index(folder / (name + INDEX))
            kept = [entry for entry in segment.entries if entry.content not in dropped]
            with disk_errors(folder):
                write_index(folder, replace(segment, entries=kept))


def drop_unfinished(folder: Path, writers: str = "*") -> None:
    """Remove unfinished files of killed writers whose names match the pattern.

    The caller must hold the cache's lock.
    """
    for path in folder.glob(f"{writers}-??????{ROWS}*"):
        if path.name.endswith(PARTIAL) or not path.with_suffix(INDEX).exists():
            path.unlink()


def index_files(folder: Path) -> list[Path]:
    """List the index files of a cache's segments, sorted by name."""
    return [path for path in sorted(folder.glob(f"*{INDEX}")) if NAME.fullmatch(path.stem)]


class Unreadable(UserError):
    """A file that the file system does not deliver; its content may be intact."""


def read_index(path: Path) -> Segment:
    """Read the segment of an index file; UserError if it is damaged, Unreadable if the file system fails."""
    try:
        values = read_json(path, f"run `caad-ds prep verify {path.parent} --drop-damaged`, then fill the cache again")
    except UserError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        raise Unreadable(unreadable(path, error.__cause__)) from error
    try:
        segment = Segment(path.stem, values["bytes"], [Entry(*each) for each in values["samples"]])
        if type(segment.size) is not int or segment.size < 0 or not all(map(_is_valid, segment.entries)):
            raise ValueError("a value of another type")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: it is not the index of a cache's segment ({error!r}); run `caad-ds prep verify {path.parent} "
            "--drop-damaged`, then fill the cache again"
        ) from error
    return segment


def _is_valid(entry: Entry) -> bool:
    texts, numbers = (entry.key, entry.content, entry.sha256), (entry.offset, entry.rows)
    return all(isinstance(each, str) for each in texts) and all(type(each) is int and each >= 0 for each in numbers)


def unreadable(path: Path, error: OSError) -> str:
    """Word the fault of a file that the file system does not deliver."""
    return f"{path}: cannot be read ({error.strerror}); check its permissions and its file system, then start it again"


def length_fault(folder: Path, segment: Segment) -> str | None:
    """Describe a wrong length of a segment's file; None if it is right."""
    path = folder / (segment.name + ROWS)
    size = path.stat().st_size if path.is_file() else None
    if size == segment.size:
        return None
    return f"{path}: it is missing" if size is None else f"{path}: it has {size} bytes, its index says {segment.size}"


class SegmentWriter:
    """Appends rows of samples to the segments of one writer, whose `name` is unique in the cache.

    A segment has a temporary name until `finish`.
    """

    def __init__(self, folder: Path, name: str):
        self.folder, self.name = folder, name
        self._file: int | None = None
        self._entries: list[Entry] = []
        self._size = 0
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        numbers = [
            int(match[2]) for path in folder.iterdir() if (match := NAME.fullmatch(path.stem)) and match[1] == name
        ]
        self._next = max(numbers, default=-1) + 1

    @property
    def size(self) -> int:
        """Bytes of the segment that is being written."""
        return self._size

    def add(self, key: str, content: str, rows: int, parts: Sequence[Tensor]) -> None:
        """Append the rows of a sample, CPU tensors in `Layout`'s order; UserError if the disk is full."""
        digest = hashlib.sha256()
        with disk_errors(self.folder):
            if self._file is None:
                self._file = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
            offset = self._size
            for part in parts:
                data = as_bytes(part)
                digest.update(data)
                while data:
                    written = os.pwrite(self._file, data, self._size)
                    self._size += written
                    data = data[written:]
        self._entries.append(Entry(key, content, offset, rows, digest.hexdigest()))

    def locations(self) -> Iterator[tuple[str, Entry]]:
        """Yield file and location of each sample in the segment that is being written."""
        return ((self._partial.name, entry) for entry in self._entries)

    def note_unusable(self, key: str) -> None:
        """Note a sample that cannot be used: the cache is complete without it."""
        self._entries.append(Entry(key, "", self._size, 0, ""))

    def finish(self) -> Segment | None:
        """Rename the segment and write its index; None if nothing was added. The next `add` starts another."""
        if not self._entries:
            return None
        segment = Segment(f"{self.name}-{self._next:06d}", self._size, self._entries)
        with disk_errors(self.folder):
            if self._file is None:  # only samples without rows
                self._file = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
            os.fsync(self._file)
            os.close(self._file)
            self._file = None
            self._partial.replace(self.folder / (segment.name + ROWS))
            write_index(self.folder, segment)
        self._entries, self._size, self._next = [], 0, self._next + 1
        return segment

    def close(self) -> None:
        """Drop the unfinished segment."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        with suppress(OSError):
            self._partial.unlink(missing_ok=True)
        self._entries, self._size = [], 0

    @property
    def _partial(self) -> Path:
        return self.folder / f"{self.name}-{self._next:06d}{ROWS}{PARTIAL}"
