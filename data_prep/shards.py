"""Tar members of a sample, and the shards that they are appended to."""

import hashlib
import io
import json
import os
import tarfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from caad_ds.data import audio
from caad_ds.data.index import SampleEntry, Shard, audio_names
from data_prep.entry import cut_out, waveform
from data_prep.jsonl import Rejected

_END = 2 * tarfile.BLOCKSIZE  # two empty blocks end a tar


@dataclass(frozen=True)
class Block:
    """A sample ready to be appended to a shard: its tar members and what the index says of them."""

    key: str
    members: bytes
    seconds: float
    tokens: int
    pcm: str


def encode(record: dict) -> Block | Rejected:
    """Decode the audios of a record (absolute paths) and make its tar members.

    The audio paths of the packed record are the member names. The key is the record's id, with what WebDataset or a
    file system would misread (dots, slashes) percent-encoded.
    """
    pcm = []
    for entry in record["audios"]:
        try:
            pcm.append(audio.to_pcm16(waveform(entry)))
        except audio.AudioError as error:
            return Rejected(record["id"], str(error))
    key = quote(record["id"], safe="").replace(".", "%2E")
    names = [f"{key}.{name}" for name in audio_names(len(pcm))]
    audios = [{**cut_out(entry), "path": name} for entry, name in zip(record["audios"], names, strict=True)]
    content = json.dumps({**record, "audios": audios}, ensure_ascii=False, sort_keys=True).encode()
    members = {f"{key}.json": content} | dict(zip(names, map(audio.encode, pcm), strict=True))
    seconds = sum(map(len, pcm)) / audio.SAMPLE_RATE
    return Block(key, _tar(members), seconds, _estimate_tokens(record), audio.pcm_hash(pcm))


def _tar(members: dict[str, bytes]) -> bytes:
    """Members with fixed owner, mode and time (0), without the end of the archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:  # USTAR cuts names at 100 bytes
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.mode = 0o644
            tar.addfile(info, io.BytesIO(data))
        return buffer.getvalue()


def _estimate_tokens(record: dict) -> int:
    """Text of prompt, transcriptions and answer at four bytes a token."""
    texts = [message["content"] for message in record["messages"]]
    texts += [entry.get("text") or "" for entry in record["audios"]]
    return -(-sum(len(text.encode()) for text in [*texts, record["response"]]) // 4)


class ShardWriter:
    """Appends blocks to shards of at most `shard_bytes`, all under temporary names until `publish`."""

    def __init__(self, folder: Path, shard_bytes: int) -> None:
        self._folder = folder
        self._shard_bytes = shard_bytes
        self._shards: list[Shard] = []
        self._file: BinaryIO | None = None

    def add(self, block: Block) -> None:
        """Append a sample; OSError if the disk is full."""
        if self._file and self._offset + len(block.members) + _END > self._shard_bytes:
            self._close()
        if self._file is None:
            self._open()
        entry = SampleEntry(block.key, self._offset, len(block.members), block.seconds, block.tokens, block.pcm)
        self._samples.append(entry)
        self._write(block.members)

    def finish(self) -> list[Shard]:
        """End the last shard; returns all of them."""
        if self._file:
            self._close()
        return self._shards

    def publish(self) -> None:
        """Give the shards their names; they are complete and on disk by now."""
        for shard in self._shards:
            os.replace(self._partial(shard.name), self._folder / shard.name)
        for stale in self._folder.glob(".train-*.tar.partial"):  # of a run that was killed
            stale.unlink()

    def discard(self) -> None:
        """Remove whatever was written, published or not."""
        if self._file:
            with suppress(OSError):  # closing flushes, which a full disk refuses once more
                self._file.close()
        for name in [*(shard.name for shard in self._shards), self._name]:
            for path in (self._partial(name), self._folder / name):
                with suppress(FileNotFoundError, NotADirectoryError):
                    path.unlink()

    @property
    def _name(self) -> str:
        return f"train-{len(self._shards):06d}.tar"

    def _partial(self, name: str) -> Path:
        return self._folder / f".{name}.partial"

    def _open(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = open(self._partial(self._name), "wb")
        self._hash = hashlib.sha256()
        self._offset = 0
        self._samples: list[SampleEntry] = []

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self._offset += len(data)

    def _close(self) -> None:
        self._write(bytes(_END + -(self._offset + _END) % tarfile.RECORDSIZE))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        seconds = sum(sample.seconds for sample in self._samples)
        self._shards.append(Shard(self._name, self._hash.hexdigest(), self._offset, seconds, self._samples))
