"""Encoding of samples as tar members, the writer of shards, and the name of their index."""

import hashlib
import io
import json
import os
import tarfile
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from caad_ds.data.audio import decode, flac, pcm16
from caad_ds.data.audio.usable_audio import DEFAULT, Rules
from caad_ds.data.record import Audio, Record
from caad_ds.data.shard_index import FILE_NAME, SampleEntry, Shard
from caad_ds.data.tar_members import audio_names
from caad_ds.utils.array_task import Part
from caad_ds.utils.file_names import encoded
from caad_ds.utils.files import writing
from data_prep.common.audio_entry import cut_out, usable_pcm16
from data_prep.common.jsonl import Rejected

LONGEST_KEY = 4096  # bytes of a sample's key; readers of tars allocate what a header claims, up to a limit
_END = 2 * tarfile.BLOCKSIZE  # two empty blocks end a tar


@dataclass(frozen=True)
class Block:
    """A sample ready to be appended to a shard: its tar members and its fields of the index."""

    key: str
    members: bytes
    seconds: float
    tokens: int
    pcm: str


def encode(record: Record | Rejected, rules: Rules = DEFAULT) -> Block | Rejected:
    """Decode the audios of a record (absolute paths) and make its tar members.

    Returns a `Rejected` for audio that breaks the rules; an item that is `Rejected` already is returned unchanged. The
    audio paths of the packed record are the member names. The key is the record's id with characters that WebDataset
    or a file system would misread (dots, slashes) percent-encoded.
    """
    if isinstance(record, Rejected):
        return record
    for field, command in (("messages", "describe"), ("response", "pseudo-gt")):
        if not record.get(field):
            return Rejected(record["id"], f"it has no {field}; run `caad-ds prep {command}` first")
    try:
        made = [_audio(entry, rules) for entry in record["audios"]]
    except decode.AudioError as error:
        return Rejected(record["id"], str(error))
    if len(key := encoded(record["id"])) > LONGEST_KEY:
        return Rejected(record["id"], f"its id has {len(key)} bytes as a key, more than {LONGEST_KEY}; shorten it")
    pcm, files = [each[0] for each in made], [each[1] for each in made]
    names = [f"{key}.{name}" for name in audio_names(len(pcm))]
    audios = [{**cut_out(entry), "path": name} for entry, name in zip(record["audios"], names, strict=True)]
    content = json.dumps({**record, "audios": audios}, ensure_ascii=False, sort_keys=True).encode()
    members = {f"{key}.json": content} | dict(zip(names, files, strict=True))
    seconds = sum(map(len, pcm)) / decode.SAMPLE_RATE
    return Block(key, _tar(members), seconds, _estimate_tokens(record), pcm16.pcm_hash(pcm))


def _audio(entry: Audio, rules: Rules) -> tuple[np.ndarray, bytes]:
    """Return the samples of an audio and its FLAC bytes, cached for consecutive prompts about one audio."""
    version: tuple[int, ...] = ()
    with suppress(OSError, ValueError):  # decoding will raise a better error
        found = os.stat(entry["path"])
        version = (found.st_ino, found.st_size, found.st_mtime_ns)
    return _decoded(entry["path"], entry.get("offset"), entry.get("duration"), rules, version)


@lru_cache(maxsize=4)
def _decoded(
    path: str, offset: float | None, duration: float | None, rules: Rules, version: tuple[int, ...]
) -> tuple[np.ndarray, bytes]:
    pcm = usable_pcm16({"path": path, "offset": offset, "duration": duration}, rules)  # type: ignore[typeddict-item]
    return pcm, flac.encode(pcm)


def _tar(members: dict[str, bytes]) -> bytes:
    """Encode members with fixed owner, mode and time (0), without the end-of-archive blocks."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:  # USTAR cuts names at 100 bytes
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.mode = 0o644
            tar.addfile(info, io.BytesIO(data))
        return buffer.getvalue()


def _estimate_tokens(record: Record) -> int:
    """Estimate the tokens of prompt, transcriptions and answer, at four bytes per token."""
    texts = [message["content"] for message in record.get("messages") or []]
    texts += [entry.get("text") or "" for entry in record["audios"]]
    return -(-sum(len(text.encode()) for text in [*texts, record.get("response") or ""]) // 4)


class ShardWriter:
    """Context manager that appends blocks to shards of at most `shard_bytes`.

    A shard gets its name once it is complete and on disk: `prefix` and its number, counted from `first`.
    """

    def __init__(self, folder: Path, shard_bytes: int, prefix: str = "train", first: int = 0) -> None:
        self._folder = folder
        self._shard_bytes = shard_bytes
        self._prefix = prefix
        self._number = first
        self._open: ExitStack | None = None

    def add(self, block: Block) -> Shard | None:
        """Append a sample; returns the previous shard if it was full. UserError if the disk is full."""
        full = self._open is not None and self._offset + len(block.members) + _END > self._shard_bytes
        closed = self.finish() if full else None
        if self._open is None:
            self._begin()
        entry = SampleEntry(block.key, self._offset, len(block.members), block.seconds, block.tokens, block.pcm)
        self._samples.append(entry)
        self._write(block.members)
        return closed

    def finish(self) -> Shard | None:
        """Close the open shard, if any, and return it."""
        if self._open is None:
            return None
        self._write(bytes(_END + -(self._offset + _END) % tarfile.RECORDSIZE))
        self._open.close()
        self._open = None
        name, seconds = self._name, sum(sample.seconds for sample in self._samples)
        self._number += 1
        return Shard(name, self._hash.hexdigest(), self._offset, seconds, self._samples)

    @property
    def _name(self) -> str:
        return f"{self._prefix}-{self._number:06d}.tar"

    def _begin(self) -> None:
        self._open = ExitStack()
        self._file = self._open.enter_context(writing(self._folder / self._name))
        self._hash = hashlib.sha256()
        self._offset = 0
        self._samples: list[SampleEntry] = []

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self._offset += len(data)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *error: Any) -> None:
        if self._open is not None:
            self._open.__exit__(*error)


def index_path(folder: Path, part: Part | None = None) -> Path:
    """Return the path of the index of the whole, or of a part: `index.00003-of-00008.json`."""
    return part.path(folder / FILE_NAME) if part else folder / FILE_NAME
