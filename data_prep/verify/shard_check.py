"""Checks one shard against its index: faults, and fingerprints of the intact samples."""

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BufferedReader
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import numpy as np
import soundfile

from caad_ds.data.audio import decode, flac, pcm16
from caad_ds.data.record import Record, RecordFault, as_record
from caad_ds.data.shard_index import SampleEntry, Shard
from caad_ds.data.tar_members import BrokenSample, Header, parse
from data_prep.verify.contents import Contents
from data_prep.verify.disjoint import Values

DIGEST = 16  # bytes kept of the sha256 of each audio and prompt
MAX_SAMPLE = 1 << 30  # bytes; an index entry that claims more is a fault


class Fingerprint(NamedTuple):
    """A sample's number in its shard, the digests of its audios in order, and the digest of its messages."""

    number: int
    audios: list[bytes]
    prompt: bytes


@dataclass
class ShardReport:
    """Faults, one line each; fingerprints and statistics of the samples without faults."""

    faults: list[str] = field(default_factory=list)
    samples: list[Fingerprint] = field(default_factory=list)
    contents: Contents = field(default_factory=Contents)
    values: Values = field(default_factory=Values)


def check_shard(shard: Shard, folder: Path, columns: Sequence[str] = ()) -> ShardReport:
    """Check length, hash, members and every sample of a shard; collect the values of metadata `columns`.

    Whatever is wrong with the shard becomes a fault, not an exception.
    """
    report = ShardReport(values=Values(columns))
    path = folder / shard.name
    try:
        if path.exists() and not path.is_file():
            raise OSError(0, "it is no plain file")
        with open(path, "rb") as file:
            for number, entry in enumerate(shard.samples):
                try:
                    record, audios = _sample(file, entry)
                    report.contents.add(record)
                    report.values.add(record.get("metadata"))
                    report.samples.append(Fingerprint(number, audios, _prompt(record)))
                except Exception as error:
                    report.faults.append(f"{path}, sample {entry.key}: {_reason(error)}")
            report.faults += [f"{path}: {fault}" for fault in _whole(file, shard)]
    except OSError as error:
        report.faults.append(f"{path}: cannot be read ({error.strerror or error})")
    return report


def audio_digest(pcm: np.ndarray) -> bytes:
    """Return the digest of an audio, int16 [samples] at 16 kHz."""
    return bytes.fromhex(pcm16.pcm_hash([pcm]))[:DIGEST]


def _sample(file: BufferedReader, entry: SampleEntry) -> tuple[Record, list[bytes]]:
    """Read a sample; returns its record and the digests of its audios, raises if it differs from the index."""
    if entry.size > MAX_SAMPLE:
        raise BrokenSample(f"the index says {entry.size} bytes, no sample has that many")
    file.seek(entry.offset)
    block = file.read(entry.size)
    if len(block) != entry.size:
        raise BrokenSample(f"the shard ends {entry.size - len(block)} bytes too early")
    packed, files = parse(block, entry.key)
    try:
        record = as_record(packed)
    except RecordFault as fault:
        raise BrokenSample(f"the record: {fault}") from fault
    if not (record.get("messages") and record.get("response")):
        raise BrokenSample("the record has no messages or no response")
    if record["id"] != unquote(entry.key):
        raise BrokenSample(f"its record has the id {record['id']!r:.80}")
    # Not decoded if longer than the index says: a few bytes of FLAC can claim days of silence.
    pcm = [flac.decode(data, "int16", longest=entry.seconds) for data in files]
    seconds = sum(map(len, pcm)) / decode.SAMPLE_RATE
    if abs(seconds - entry.seconds) > 1e-6:
        raise BrokenSample(f"it lasts {seconds:g} s where the index says {entry.seconds:g}")
    if pcm16.pcm_hash(pcm) != entry.pcm:
        raise BrokenSample("its audio is not what was packed (pcm hash differs)")
    return record, [audio_digest(part) for part in pcm]


def _whole(file: BufferedReader, shard: Shard) -> list[str]:
    found = file.seek(0, io.SEEK_END)
    if found != shard.bytes:
        return [f"{found} bytes where the index says {shard.bytes}"]
    file.seek(0)
    faults = []
    if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
        faults.append("its sha256 is not the index's")
    ends = [0, *(entry.offset + entry.size for entry in shard.samples)]
    if [entry.offset for entry in shard.samples] != ends[:-1]:
        faults.append("the index's samples do not lie one after another")
    if abs(shard.seconds - sum(entry.seconds for entry in shard.samples)) > 1e-3:
        faults.append("the index's seconds are not the sum of its samples'")
    file.seek(0)
    try:
        keys = _keys(file)
    except Exception as error:
        return [*faults, f"it is no tar to its end ({_reason(error)})"]
    listed = [entry.key for entry in shard.samples]
    if keys != listed:
        tar, index = next(pair for pair in zip_longest(keys, listed) if pair[0] != pair[1])
        faults.append(
            f"it holds {len(keys)} samples, the index lists {len(listed)}; first difference: {tar!r:.80} in the tar, "
            f"{index!r:.80} in the index"
        )
    return faults


def _keys(file: BufferedReader) -> list[str]:
    """List the samples as tar readers find them: consecutive members that share a key."""
    keys: list[str] = []
    with tarfile.open(fileobj=file, mode="r:", tarinfo=Header) as tar:
        while member := tar.next():
            tar.members.clear()  # type: ignore[attr-defined]  # otherwise it keeps all of them in memory
            key = member.name.partition(".")[0]
            if keys[-1:] != [key]:
                keys.append(key)
    return keys


def _prompt(record: Record) -> bytes:
    turns = [(message["role"], message["content"]) for message in record.get("messages") or []]
    return hashlib.sha256(json.dumps(turns).encode()).digest()[:DIGEST]


def _reason(error: Exception) -> str:
    expected = isinstance(error, BrokenSample | decode.AudioError | tarfile.TarError | soundfile.SoundFileError)
    return str(error) if expected else f"{type(error).__name__}: {error}"
