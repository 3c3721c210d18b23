"""The rows of a teacher cache, looked up by a hash of the sample's content."""

import errno
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from caad_ds.data.batch import IGNORE, Batch
from caad_ds.data.decoded_sample import Sample
from caad_ds.data.index_entries import SampleEntry
from caad_ds.data.stored_states import StoredStates
from caad_ds.distill.teacher_cache.buffers import Buffers
from caad_ds.distill.teacher_cache.row_layout import Layout, as_bytes
from caad_ds.distill.teacher_cache.segments import ROWS, Entry, Segment, read_segments
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import OPEN_FILES, OpenFile

COMPUTE = (
    "compute them with the teacher: `caad-ds cache-teacher --config FILE`, or for a stream a training with "
    "teacher.cache.fill true"
)


def content_of(sample: Sample, answer: Sequence[int]) -> str:
    """Hash what the teacher's states of a sample depend on: its texts, its audio, the answer's token ids, and its key.

    With the key, equal samples have separate rows, so the keys show whether a cache is complete.
    """
    record = sample.record
    texts = [sample.key, record["messages"], [audio.get("text") for audio in record["audios"]]]
    digest = hashlib.sha256(json.dumps(texts, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    for values in (np.asarray(answer, np.int64), *sample.waveforms):
        digest.update(len(values).to_bytes(8, "little"))
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()[:32]


def named(entry: SampleEntry) -> tuple[str, str]:
    """Identify a sample of an index for `Store.lacks`: its key, and its audio with the length of its text."""
    return entry.key, f"{entry.pcm} {entry.tokens}"


class DamagedRows(UserError):
    """Rows of a sample that are not as they were written."""


class Damage(NamedTuple):
    """Damaged rows: the name of their segment, and a description with file, sample and reason."""

    segment: str
    fault: str


class Store:
    """The complete segments of a cache: `read` returns the rows of a batch, from any thread.

    Args:
        folder: the cache's folder.
        layout: the layout of its rows.
        needed: whether a sample without rows, or with damaged ones, is an error. Otherwise it is absent from what
            is read, and damage is noted for `take_damaged`.
        segments: the segments to read; default: all complete ones in the folder.
    """

    def __init__(self, folder: Path, layout: Layout, needed: bool = False, segments: Iterable[Segment] | None = None):
        self.folder, self.layout, self.needed = folder, layout, needed
        self._buffers = Buffers(layout)
        self._locations: dict[str, tuple[str, Entry]] = {}
        self._keys: Counter[str] = Counter()
        self._noted: set[str] = set()  # keys of samples that were noted as unusable
        self._checked: set[str] = set()
        self._damaged: dict[str, Damage] = {}  # of contents that were found since `take_damaged`
        self._open = lru_cache(OPEN_FILES)(lambda file: OpenFile(folder / file))
        self.add(read_segments(folder) if segments is None else segments)

    def __len__(self) -> int:
        """Count the samples with rows."""
        return sum(entry.rows > 0 for _, entry in self._locations.values())

    @property
    def size(self) -> int:
        """Bytes of all rows."""
        return sum(entry.rows for _, entry in self._locations.values()) * self.layout.bytes_per_row

    def add(self, segments: Iterable[Segment]) -> None:
        """Add the samples of these segments. If two have the same content, the first by name counts."""
        for segment in segments:
            for entry in segment.entries:
                name = entry.content or f"unusable {entry.key}"
                if not entry.content:
                    self._noted.add(entry.key)
                known = self._locations.get(name)
                if known is None:
                    self._keys[entry.key] += 1
                if known is None or (segment.name, entry.offset) < (known[0], known[1].offset):
                    self._locations[name] = (segment.name, entry)

    def lacks(self, samples: Iterable[tuple[str, str]], noted: bool = True) -> list[str]:
        """Return the keys of samples without rows, given (key, what distinguishes samples with this key).

        Only keys are compared: a sample whose text has changed since is noticed when it is read. `noted`: whether a
        sample that was noted as unusable counts as one with rows.
        """
        wanted = Counter(key for key, _ in dict.fromkeys(samples))
        without = set() if noted else self._noted
        return [key for key, count in wanted.items() if self._keys[key] - (key in without) < count]

    def is_sound(self, content: str, count: int) -> bool:
        """Whether a content has `count` rows that are as written; damaged ones are noted for `take_damaged`."""
        location = self._locations.get(content)
        if location is None or not count:
            return location is not None
        parts = self.layout.empty(count)
        return self._fetched(*location, count, [as_bytes(part) for part in parts])

    def take_damaged(self) -> dict[str, Damage]:
        """Return the damaged rows that were found since the last call, by content."""
        found, self._damaged = self._damaged, {}
        return found

    def forget(self, damaged: Mapping[str, Damage]) -> dict[str, Damage]:
        """Treat damaged rows as missing; return those that were not forgotten before."""
        here = {content: damage for content, damage in damaged.items() if self._is_at(content, damage)}
        for content in here:
            _, entry = self._locations.pop(content)
            self._keys[entry.key] -= 1
            self._checked.discard(content)
        return here

    def _is_at(self, content: str, damage: Damage) -> bool:
        return content in self._locations and self._locations[content][0] == damage.segment

    def read(self, samples: Sequence[Sample], batch: Batch) -> StoredStates:
        """Read the rows of a student's batch; UserError if they are unreadable or, if needed, missing or damaged."""
        answers = [labels[labels != IGNORE].tolist() for labels in batch.labels]
        contents = [content_of(sample, answer) for sample, answer in zip(samples, answers, strict=True)]
        counts = [len(answer) for answer in answers]
        return self.filled(StoredStates(contents, torch.zeros(len(contents), dtype=torch.bool)), batch.keys, counts)

    def filled(self, stored: StoredStates, keys: Sequence[str], counts: Sequence[int]) -> StoredStates:
        """Add rows of samples that have been stored since `stored` was read.

        `counts` are the answer rows of each sample; one without any, whose answer is ignored, is never missing.
        """
        present, locations = stored.present.clone(), {}
        for number, (content, count) in enumerate(zip(stored.contents, counts, strict=True)):
            if present[number]:
                continue
            location = self._locations.get(content)
            if location is None and count and self.needed:
                raise UserError(self.missing(keys[number]))
            present[number] = location is not None or not count
            if location is not None and count:
                locations[number] = location
        if not locations:
            return StoredStates(stored.contents, present, stored.positive, stored.negative, stored.scalars)
        tensors = [stored.positive, stored.negative, stored.scalars]
        if stored.positive is None:
            buffers = self._buffers.rows(sum(counts))
            tensors = [buffers[0], buffers[1] if len(buffers) == 3 else None, buffers[-1]]
        starts = np.cumsum([0, *counts]).tolist()
        # Views of the batch, not of each sample: making and slicing tensors would add a third to the time of reading.
        views = [(as_bytes(t), t.shape[1] * t.element_size()) for t in tensors if t is not None]
        for number, (name, entry) in locations.items():
            first, last = starts[number], starts[number + 1]
            parts = [view[first * width : last * width] for view, width in views]
            present[number] = self._fetched(name, entry, counts[number], parts)
        return StoredStates(stored.contents, present, *tensors)

    def _fetched(self, name: str, entry: Entry, count: int, views: Sequence[memoryview]) -> bool:
        """Read the rows of a sample, or note that they are damaged; the latter is an error if they are needed."""
        try:
            if count != entry.rows:
                raise DamagedRows(self._fault(name + ROWS, entry, f"it has {entry.rows} rows for {count} tokens"))
            self.fetch(name + ROWS, entry, views)
        except DamagedRows as error:
            if self.needed:
                raise DamagedRows(f"{error}; {COMPUTE}") from error
            self._damaged[entry.content] = Damage(name, str(error))
            return False
        return True

    def check(self, name: str, entry: Entry) -> str | None:
        """Describe what is wrong with the rows of a sample; None if their bytes are as written."""
        opened = self._open(name + ROWS)
        size = entry.rows * self.layout.bytes_per_row
        block = os.pread(opened.descriptor, size, entry.offset)
        _check_delivery(opened, entry.offset + size, size - len(block))
        return None if hashlib.sha256(block).hexdigest() == entry.sha256 else "its bytes have another sha256"

    def fetch(self, file: str, entry: Entry, views: Sequence[memoryview]) -> None:
        """Read the rows of a sample from a file into tensors; their sha256 is checked the first time."""
        size = sum(view.nbytes for view in views)
        try:
            opened = self._open(file)  # keep a reference while reading: if two threads open it, only one is cached
            got = os.preadv(opened.descriptor, views, entry.offset)
            _check_delivery(opened, entry.offset + size, size - got)
        except FileNotFoundError as error:
            raise DamagedRows(self._fault(file, entry, str(error.strerror))) from error
        except OSError as error:  # of the file system: the rows may be as they were
            raise UserError(
                f"{self.folder / file}, sample {entry.key}: its rows cannot be read ({error.strerror}); start it again "
                "or copy the cache to another file system"
            ) from error
        if got != size:
            raise DamagedRows(self._fault(file, entry, f"{size - got} bytes are missing"))
        if entry.content not in self._checked:
            digest = hashlib.sha256()
            for view in views:
                digest.update(view)
            if digest.hexdigest() != entry.sha256:
                raise DamagedRows(self._fault(file, entry, "its bytes have another sha256"))
            self._checked.add(entry.content)

    def missing(self, key: str, others: int = 0) -> str:
        """Word the error for a sample without rows and a number of others."""
        known = "its text, audio or answer has changed since the cache was filled" if self._keys[key] else "it has none"
        if key in self._noted and self._keys[key] == 1:
            known = "the run that filled it noted it as unusable, such as for another student; this run can use it"
        more = f", nor of {others} others" if others else ""
        return f"sample {key}: teacher.cache.path {self.folder} has no rows of it ({known}){more}; {COMPUTE}"

    def _fault(self, file: str, entry: Entry, why: str) -> str:
        return f"{self.folder / file}, sample {entry.key}: its rows are damaged ({why})"

    def close(self) -> None:
        """Close the segments."""
        self._open.cache_clear()


def _check_delivery(opened: OpenFile, end: int, lacking: int) -> None:
    """Raise OSError if bytes that a file has up to `end` were not delivered: they may be as they were written."""
    if lacking and os.fstat(opened.descriptor).st_size >= end:
        raise OSError(errno.EIO, f"{lacking} bytes were not delivered")
