"""The rows of a teacher cache, found by what a sample is and read by offset."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from caad_ds.data.audio.decoded import Sample
from caad_ds.data.batch import IGNORE, Batch
from caad_ds.data.samples import SampleEntry
from caad_ds.data.stored_states import StoredStates
from caad_ds.distill.teacher_cache.buffers import Buffers
from caad_ds.distill.teacher_cache.layout import Layout, as_bytes
from caad_ds.distill.teacher_cache.segments import ROWS, Entry, Segment, read_segments
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import OPEN_FILES, OpenFile


def content_of(sample: Sample, answer: Sequence[int]) -> str:
    """The hash of what the teacher's states of a sample depend on: its texts, its audio, the answer's token ids.

    And of its key: two samples that are alike have rows each, so that keys tell whether a cache is whole.
    """
    record = sample.record
    texts = [sample.key, record["messages"], [audio.get("text") for audio in record["audios"]]]
    digest = hashlib.sha256(json.dumps(texts, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    for values in (np.asarray(answer, np.int64), *sample.waveforms):
        digest.update(len(values).to_bytes(8, "little"))
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()[:32]


def named(entry: SampleEntry) -> tuple[str, str]:
    """What `Store.lacks` tells a sample of an index by: its key, and its audio with the length of its text."""
    return entry.key, f"{entry.pcm} {entry.tokens}"


class Store:
    """The whole segments of a cache: `read` gives the rows of a batch, from any thread.

    Args:
        folder: that of the cache.
        layout: how rows lie in it.
        needed: whether a sample without rows is an error.
        segments: what is found in it; default: all whole segments of the folder.
    """

    def __init__(self, folder: Path, layout: Layout, needed: bool = False, segments: Iterable[Segment] | None = None):
        self.folder, self.layout, self.needed = folder, layout, needed
        self._buffers = Buffers(layout)
        self._places: dict[str, tuple[str, Entry]] = {}
        self._keys: Counter[str] = Counter()
        self._checked: set[str] = set()
        self._open = lru_cache(OPEN_FILES)(lambda file: OpenFile(folder / file))
        self.add(read_segments(folder) if segments is None else segments)

    def __len__(self) -> int:
        """How many samples have rows."""
        return sum(entry.rows > 0 for _, entry in self._places.values())

    @property
    def size(self) -> int:
        """Bytes of all rows."""
        return sum(entry.rows for _, entry in self._places.values()) * self.layout.bytes_per_row

    def add(self, segments: Iterable[Segment]) -> None:
        """Let the samples of these segments be found. Of the same content in two the first by name counts."""
        for segment in segments:
            for entry in segment.entries:
                name = entry.content or f"unusable {entry.key}"
                known = self._places.get(name)
                if known is None:
                    self._keys[entry.key] += 1
                if known is None or (segment.name, entry.offset) < (known[0], known[1].offset):
                    self._places[name] = (segment.name, entry)

    def lacks(self, samples: Iterable[tuple[str, str]]) -> list[str]:
        """The keys of the samples that are not there, of (key, what tells samples of one key apart) of each.

        By their keys alone: a sample whose text has changed since is noticed where it is read.
        """
        wanted = Counter(key for key, _ in dict.fromkeys(samples))
        return [key for key, count in wanted.items() if self._keys[key] < count]

    def __contains__(self, content: str) -> bool:
        return content in self._places

    def read(self, samples: Sequence[Sample], batch: Batch) -> StoredStates:
        """The rows of the samples of a student's batch; UserError for one that is damaged or, if needed, not there."""
        answers = [labels[labels != IGNORE].tolist() for labels in batch.labels]
        contents = [content_of(sample, answer) for sample, answer in zip(samples, answers, strict=True)]
        counts = [len(answer) for answer in answers]
        return self.filled(StoredStates(contents, torch.zeros(len(contents), dtype=torch.bool)), batch.keys, counts)

    def filled(self, stored: StoredStates, keys: Sequence[str], counts: Sequence[int]) -> StoredStates:
        """The same with the rows of samples that were not there when they were read before, as far as they are now.

        `counts` are the answer rows of each sample; one without any, whose answer is ignored, is always there.
        """
        there, places = stored.there.clone(), {}
        for number, (content, count) in enumerate(zip(stored.contents, counts, strict=True)):
            if there[number]:
                continue
            found = self._places.get(content)
            if found is None and count and self.needed:
                raise UserError(self.missing(keys[number]))
            there[number] = found is not None or not count
            if found is not None and count:
                places[number] = found
        if not places:
            return StoredStates(stored.contents, there, stored.positive, stored.negative, stored.scalars)
        tensors = [stored.positive, stored.negative, stored.scalars]
        if stored.positive is None:
            made = self._buffers.rows(sum(counts))
            tensors = [made[0], made[1] if len(made) == 3 else None, made[-1]]
        starts = np.cumsum([0, *counts]).tolist()
        # Of a batch, not of a sample: making and slicing tensors takes as long as reading a third of the bytes.
        views = [(as_bytes(t), t.shape[1] * t.element_size()) for t in tensors if t is not None]
        for number, (name, entry) in places.items():
            if counts[number] != entry.rows:
                raise UserError(
                    self._damaged(name + ROWS, entry, f"it has {entry.rows} rows for {counts[number]} tokens")
                )
            first, last = starts[number], starts[number + 1]
            self.fetch(name + ROWS, entry, [view[first * width : last * width] for view, width in views])
        return StoredStates(stored.contents, there, *tensors)

    def check(self, name: str, entry: Entry) -> str | None:
        """What is wrong with the rows of a sample, in words; None where their bytes are as they were written."""
        opened = self._open(name + ROWS)
        block = os.pread(opened.descriptor, entry.rows * self.layout.bytes_per_row, entry.offset)
        return None if hashlib.sha256(block).hexdigest() == entry.sha256 else "its bytes have another sha256"

    def fetch(self, file: str, entry: Entry, views: Sequence[memoryview]) -> None:
        """Read the rows of a sample from a file into the memory of tensors; the first time their sha256 is compared."""
        size = sum(view.nbytes for view in views)
        try:
            opened = self._open(file)  # held while it is read: of two threads that miss, one's is not the cache's
            got = os.preadv(opened.descriptor, views, entry.offset)
        except OSError as error:
            raise UserError(self._damaged(file, entry, str(error.strerror))) from error
        if got != size:
            raise UserError(self._damaged(file, entry, f"{size - got} bytes are missing"))
        if entry.content not in self._checked:
            digest = hashlib.sha256()
            for view in views:
                digest.update(view)
            if digest.hexdigest() != entry.sha256:
                raise UserError(self._damaged(file, entry, "its bytes have another sha256"))
            self._checked.add(entry.content)

    def missing(self, key: str, others: int = 0) -> str:
        """What to tell of a sample without rows, and of how many others there are."""
        known = "its text, audio or answer has changed since the cache was filled" if self._keys[key] else "it has none"
        more = f", nor of {others} others" if others else ""
        return (
            f"sample {key}: teacher.cache.path {self.folder} has no rows of it ({known}){more}; fill it with `caad-ds "
            "cache-teacher --config FILE`, which loads the teacher"
        )

    def _damaged(self, file: str, entry: Entry, why: str) -> str:
        return (
            f"{self.folder / file}, sample {entry.key}: its rows are damaged ({why}); run `caad-ds prep "
            f"verify {self.folder} --drop-damaged`, then fill the cache again with `caad-ds cache-teacher`"
        )

    def close(self) -> None:
        """Close the segments."""
        self._open.cache_clear()
