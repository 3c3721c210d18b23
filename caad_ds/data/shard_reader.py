"""Read samples by number: one positioned read per sample, from any thread or forked worker."""

import io
import json
import os
import sys
import tarfile
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np

from caad_ds.data.audio import decode, flac
from caad_ds.data.audio.usable_audio import SAMPLE_RATE, Levels, faults
from caad_ds.data.record import PackedRecord, RecordFault, as_packed
from caad_ds.data.sample import Sample
from caad_ds.data.shard_index import SampleEntry, Shard, ShardIndex, audio_names
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import OPEN_FILES, OpenFile

PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME)
LARGEST = 1 << 28  # bytes of a member, more than an hour of audio
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


class BrokenSample(Exception):
    """A sample's bytes are not valid; the reader adds which sample it is."""


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


class Header(tarfile.TarInfo):
    """A member's header, checked before tarfile uses it: a plain file's, or its long name.

    BrokenSample for links, devices, sparse files and members of more than `LARGEST` bytes.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "Header":
        header = super().frombuf(buf, encoding, errors)
        if header.type not in PLAIN:
            raise BrokenSample(f"the member {header.name!r} is no plain file")
        if not 0 <= header.size <= LARGEST:
            raise BrokenSample(f"the member {header.name!r} claims {header.size} bytes")
        return header


def parse(block: bytes, key: str) -> tuple[PackedRecord, list[bytes]]:
    """Parse a sample's tar members to its record and its audio files, in the record's order.

    Raises BrokenSample for members that are missing, foreign or not plain files, and for a record that is not JSON or
    lacks fields for training.
    """
    members = _members(block, key)
    if "json" not in members:
        raise BrokenSample(f"the member {key}.json is missing")
    record = _record(members.pop("json"), key)
    names = audio_names(len(record["audios"]))
    if set(members) != set(names):
        raise BrokenSample(f"the audio members are {sorted(members)}, the record asks for {names}")
    return record, [members[name] for name in names]


def first_record(head: bytes, key: str) -> PackedRecord | None:
    """Parse a sample's record from its first bytes; None if it is not the first member, or not complete."""
    try:
        with tarfile.open(fileobj=io.BytesIO(head), mode="r:", tarinfo=Header) as tar:
            member = tar.next()
    except (tarfile.TarError, ValueError, RecursionError):  # `parse` reports what is wrong
        return None
    if member is None or member.name != f"{key}.json" or member.offset_data + member.size > len(head):
        return None
    return _record(head[member.offset_data : member.offset_data + member.size], key)


def _record(data: bytes, key: str) -> PackedRecord:
    """Parse and check a record."""
    try:
        return as_packed(json.loads(data))
    except RecordFault as fault:
        raise BrokenSample(str(fault)) from fault
    except (ValueError, RecursionError) as error:
        raise BrokenSample(f"the member {key}.json is no JSON ({error})") from error


def _members(block: bytes, key: str) -> dict[str, bytes]:
    """Return members by extension (`json`, `flac`, `0.flac`, ...), each checked before it is read."""
    members: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(block), mode="r:", tarinfo=Header) as tar:
            for member in tar:
                _check(member, key, len(block))
                data = block[member.offset_data : member.offset_data + member.size]
                if members.setdefault(member.name.removeprefix(f"{key}."), data) is not data:
                    raise BrokenSample(f"the member {member.name!r} comes twice")
    except (tarfile.TarError, ValueError, RecursionError) as error:  # PAX records, or nested headers
        raise BrokenSample(f"no tar members in its bytes ({error})") from error
    return members


def _check(member: tarfile.TarInfo, key: str, limit: int) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise BrokenSample(f"the member name {member.name!r} leaves the shard")
    if not member.isreg() or member.issparse():
        raise BrokenSample(f"the member {member.name!r} is no plain file")
    if not member.name.startswith(f"{key}."):
        raise BrokenSample(f"the member {member.name!r} belongs to another sample")
    if member.size < 0 or member.offset_data + member.size > limit:
        raise BrokenSample(f"the member {member.name!r} claims {member.size} bytes, the sample has {limit} in all")
