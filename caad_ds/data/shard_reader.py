"""Read samples by number: one positioned read per sample, from any thread or forked worker."""

import os
import sys
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path

import numpy as np

from caad_ds.data.audio import decode, flac
from caad_ds.data.audio.usable_audio import SAMPLE_RATE, Levels, faults
from caad_ds.data.decoded_sample import Sample
from caad_ds.data.shard_index import SampleEntry, Shard, ShardIndex
from caad_ds.data.tar_members import BrokenSample, first_record, parse
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import OPEN_FILES, OpenFile

HEAD = 1 << 14  # bytes of a sample in which its record is first looked for


class Doubtful:
    """Samples that are read although their audio breaks a rule (usable_audio.py): by rule, each counted once; the first
    of each rule is reported."""

    def __init__(self) -> None:
        self.by_rule: dict[str, set[str]] = {}

    def look(self, sample: Sample, where: str) -> None:
        """Check a sample's audio, except its length, which the model's reader checks."""
        for waveform in sample.waveforms:
            for rule, reason in faults(Levels(SAMPLE_RATE, 1).add(waveform)) if waveform.size else ():
                if rule not in self.by_rule:
                    print(f"{where}: {rule}: {reason}; it is kept, further ones are only counted", file=sys.stderr)
                self.by_rule.setdefault(rule, set()).add(where)

    @classmethod
    def merged(cls, parts: "list[Doubtful]") -> "Doubtful":
        """Merge the samples of all ranks; one that two of them read counts once."""
        whole = cls()
        for rule, samples in (item for part in parts for item in part.by_rule.items()):
            whole.by_rule.setdefault(rule, set()).update(samples)
        return whole

    @property
    def summary(self) -> str:
        """The number of samples by rule, or ""."""
        return ", ".join(f"{rule} {len(samples)}" for rule, samples in sorted(self.by_rule.items()))


class IndexedReader:
    """The samples of a folder of shards: `len(reader)`, `reader[i] -> Sample`.

    Shards are opened when first read; the `OPEN_FILES` read last stay open. Reads carry their own offset (pread), so
    threads and forked workers may share a reader; a pickled copy opens its own files.
    """

    def __init__(self, folder: Path | str) -> None:
        self.index = ShardIndex.load(folder)
        self.doubtful = None if self.index.file.rules else Doubtful()  # samples packed under rules were checked then
        self._open = lru_cache(OPEN_FILES)(OpenFile)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def identity(self) -> str:
        """The hash of the packed manifest."""
        return self.index.file.manifest

    def __getitem__(self, number: int) -> Sample:
        """Read sample `number` and decode its audio; UserError with shard and key if it is broken."""
        shard, entry = self.index.locate(number)
        try:
            record, audios = parse(self.read(number), entry.key)
            sample = Sample(entry.key, record, [_decoded(data, entry.seconds) for data in audios])
        except (BrokenSample, decode.AudioError) as error:
            raise UserError(self._message(shard, entry, error)) from error
        if self.doubtful:
            self.doubtful.look(sample, f"{self.index.folder / shard.name}, sample {entry.key}")
        return sample

    def without_audio(self, number: int) -> Sample:
        """Read only the record of sample `number`, with few bytes; UserError if it is broken."""
        shard, entry = self.index.locate(number)
        try:
            record = first_record(self.read(number, HEAD), entry.key)
            if record is None:
                record, _ = parse(self.read(number), entry.key)
        except BrokenSample as error:
            raise UserError(self._message(shard, entry, error)) from error
        return Sample(entry.key, record, [])

    def leave_out(self, numbers: Collection[int]) -> None:
        """Leave out the samples of these numbers; the others are renumbered."""
        self.index = self.index.without(numbers)

    def read(self, number: int, most: int | None = None) -> bytes:
        """Read the tar members of a sample from the shard, or their first `most` bytes."""
        shard, entry = self.index.locate(number)
        size = entry.size if most is None else min(most, entry.size)
        try:
            file = self._open(self.index.folder / shard.name)
            block = os.pread(file.descriptor, size, entry.offset)
        except OSError as error:
            raise UserError(self._message(shard, entry, error)) from error
        if len(block) != size:
            raise UserError(self._message(shard, entry, f"the shard ends {size - len(block)} bytes too early"))
        return block

    def _message(self, shard: Shard, entry: SampleEntry, reason: object) -> str:
        path = self.index.folder / shard.name
        return (
            f"{path}, sample {entry.key}: {reason}; run `caad-ds prep verify {self.index.folder}`, then pack it again"
        )

    def close(self) -> None:
        """Close the shards; the next read opens them again."""
        self._open.cache_clear()

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name != "_open"}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._open = lru_cache(OPEN_FILES)(OpenFile)


@lru_cache(maxsize=4)
def _decoded(data: bytes, longest: float) -> np.ndarray:
    """Decode an audio to a read-only waveform, cached: prompts about one audio are read one after another."""
    return flac.decode(data, longest=longest)
