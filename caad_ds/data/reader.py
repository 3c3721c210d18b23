"""Samples fetched by number: one positioned read a sample, from any thread or forked worker."""

import io
import json
import os
import tarfile
from pathlib import Path, PurePosixPath

from caad_ds.data import audio
from caad_ds.data.batch import Sample
from caad_ds.data.index import SampleEntry, Shard, ShardIndex, audio_names
from caad_ds.errors import UserError


class BrokenSample(Exception):
    """A sample's bytes are not what a shard holds; the reader adds which sample it is."""


class IndexedReader:
    """The samples of a folder of shards: `len(reader)`, `reader[i] -> Sample`.

    Shards are opened when first read and stay open. Reads carry their own offset (pread), so threads and forked
    workers may share a reader; a pickled copy opens its own files.
    """

    def __init__(self, folder: Path | str) -> None:
        self.index = ShardIndex.load(folder)
        self._files: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, number: int) -> Sample:
        """Sample `number` with its audio decoded; UserError, with shard and key, where it is broken."""
        shard, entry = self.index.locate(number)
        try:
            record, audios = parse(self.read(number), entry.key)
            return Sample(entry.key, record, [audio.decode(data) for data in audios])
        except (BrokenSample, audio.AudioError) as error:
            raise UserError(self._message(shard, entry, error)) from error

    def read(self, number: int) -> bytes:
        """The tar members of a sample as they lie in the shard."""
        shard, entry = self.index.locate(number)
        try:
            block = os.pread(self._open(shard), entry.size, entry.offset)
        except OSError as error:
            raise UserError(self._message(shard, entry, error)) from error
        if len(block) != entry.size:
            raise UserError(self._message(shard, entry, f"the shard ends {entry.size - len(block)} bytes too early"))
        return block

    def _message(self, shard: Shard, entry: SampleEntry, reason: object) -> str:
        path = self.index.folder / shard.name
        return f"{path}, sample {entry.key}: {reason}; run `caad-ds prep verify {self.index.folder}`, then pack it anew"

    def _open(self, shard: Shard) -> int:
        if shard.name not in self._files:
            opened = os.open(self.index.folder / shard.name, os.O_RDONLY | os.O_CLOEXEC)
            if self._files.setdefault(shard.name, opened) != opened:  # another thread was first
                os.close(opened)
        return self._files[shard.name]

    def close(self) -> None:
        """Close the shards; the next read opens them again."""
        while self._files:
            os.close(self._files.popitem()[1])

    def __getstate__(self) -> dict:
        return {**vars(self), "_files": {}}


def parse(block: bytes, key: str) -> tuple[dict, list[bytes]]:
    """The record of a sample and its audio files, in the record's order, from the sample's tar members.

    Raises BrokenSample for members that are missing, foreign or no plain files, and for a record that is no JSON.
    """
    members = _members(block, key)
    try:
        record = json.loads(members.pop("json"))
    except KeyError:
        raise BrokenSample(f"the member {key}.json is missing") from None
    except ValueError as error:
        raise BrokenSample(f"the member {key}.json is no JSON ({error})") from error
    audios = record.get("audios") if isinstance(record, dict) else None
    if not isinstance(audios, list):
        raise BrokenSample("the record is not an object with a list `audios`")
    names = audio_names(len(audios))
    if set(members) != set(names):
        raise BrokenSample(f"the audio members are {sorted(members)}, the record asks for {names}")
    return record, [members[name] for name in names]


def _members(block: bytes, key: str) -> dict[str, bytes]:
    """Members by extension (`json`, `flac`, `0.flac`, ...), each checked before it is read."""
    found = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(block), mode="r:") as tar:
            for member in tar:
                _check(member, key, len(block))
                data = block[member.offset_data : member.offset_data + member.size]
                found[member.name.removeprefix(f"{key}.")] = data
    except tarfile.TarError as error:
        raise BrokenSample(f"no tar members where the index says ({error})") from error
    return found


def _check(member: tarfile.TarInfo, key: str, limit: int) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise BrokenSample(f"the member name {member.name!r} leaves the shard")
    if not member.isreg() or member.issparse():
        raise BrokenSample(f"the member {member.name!r} is no plain file")
    if not member.name.startswith(f"{key}."):
        raise BrokenSample(f"the member {member.name!r} belongs to another sample")
    if member.offset_data + member.size > limit:
        raise BrokenSample(f"the member {member.name!r} claims {member.size} bytes, the index {limit} in all")
