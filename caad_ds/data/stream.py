"""`reader: stream`: samples of streamed tars, from an object store or a pipe, with WebDataset's pipeline.

WebDataset expands and opens the addresses and shuffles in a buffer. The tars are parsed here, because its own parser
allocates whatever a header claims. Unlike `IndexedReader`, this reader does not give every sample once per epoch, its
order depends on the number of ranks, and it cannot resume at the exact sample.
"""

import os
import random
import re
import shlex
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from caad_ds.data.audio import decode, flac
from caad_ds.data.decoded_sample import Sample
from caad_ds.data.shard_reader import Doubtful
from caad_ds.data.tar_members import LARGEST, BrokenSample, parse
from caad_ds.utils.errors import UserError

LIMITS = (
    "data.reader stream: the order depends on the number of ranks, an epoch is not exact, and a run that resumes from "
    "a checkpoint begins the shards again that its ranks were reading, without what waited in their buffers"
)
IN_A_ROW = 100  # broken shards or samples without an intact one: the data or the connection is broken
REPORTED = 10  # skipped samples that a rank names
CHUNK = 1 << 20
LONGEST_NAME = 1 << 16  # bytes of headers before a member


class StreamReader:
    """An endless stream of one rank's samples; `position` is the number in the stream of the shard being read.

    The stream of shards is a sequence of permutations of all, seeded with (seed, epoch); shard k goes to rank
    k % world_size. A broken one raises UserError, or with `skip` is left out, reported and counted in `skipped`.
    """

    def __init__(
        self, train: str | list[str], *, seed: int, rank: int, world_size: int, buffer: int, skip: bool
    ) -> None:
        self.urls = expand(train)
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.buffer = buffer
        self.skip = skip
        self.position = 0
        self.skipped = 0
        self.doubtful = Doubtful()
        self._in_a_row = 0

    @property
    def identity(self) -> str:
        """A hash of the addresses, not of the shards."""
        return sha256("\n".join(self.urls).encode()).hexdigest()

    def samples(
        self, longest: float, position: int = 0, check: Callable[[Sample], object] = lambda sample: None
    ) -> Iterator[Sample]:
        """Yield samples from a shard of the stream on, forever.

        Audio of more than `longest` seconds counts as broken, and so does a sample for which `check` raises UserError.
        """
        wds = _webdataset()
        pipeline = wds.DataPipeline(
            partial(self._shards, position),
            partial(wds.tariterators.url_opener, handler=self._unopened, bufsize=CHUNK),
            self._blocks,
            wds.shuffle(self.buffer, initial=self.buffer, rng=random.Random(f"{self.seed}:{position}:{self.rank}")),
            partial(self._decoded, longest=longest, check=check),
        )
        return iter(pipeline)

    def _shards(self, position: int) -> Iterator[dict[str, Any]]:
        order, drawn = np.empty(0, int), -1
        for number in count(position):
            epoch, index = divmod(number, len(self.urls))
            if epoch != drawn:
                order, drawn = np.random.default_rng([self.seed, epoch]).permutation(len(self.urls)), epoch
            if number % self.world_size == self.rank:
                name = self.urls[order[index]]
                yield {"url": _opened_as(name), "name": name, "number": number}

    def _unopened(self, error: Exception) -> bool:
        *reasons, url = error.args  # WebDataset has appended the address
        self._broken(str(url), getattr(error, "strerror", None) or reasons[0])
        return True

    def _blocks(self, shards: Iterator[dict[str, Any]]) -> Iterator[tuple[str, str, bytes]]:
        """Yield (shard, key, tar members) of each sample; the rest of a truncated shard is left out."""
        for shard in shards:
            self.position = shard["number"]
            stream, has_samples = shard["stream"], False
            try:
                for key, block in blocks(stream):
                    has_samples = True
                    yield shard["name"], key, block
                stream.close()  # raises if a command failed
                if not has_samples:
                    raise BrokenSample("it holds no sample")
            except (BrokenSample, OSError) as error:
                self._broken(shard["name"], error)
            finally:
                _end(stream)

    def _decoded(
        self, samples: Iterator[tuple[str, str, bytes]], longest: float, check: Callable[[Sample], object]
    ) -> Iterator[Sample]:
        for shard, key, block in samples:
            try:
                record, audios = parse(block, key)
                sample = Sample(key, record, [flac.decode(data, longest=longest) for data in audios])
                check(sample)
                self.doubtful.look(sample, f"{shard}, sample {key}")
            except (BrokenSample, decode.AudioError, UserError) as error:
                self._broken(f"{shard}, sample {key}", error)
                continue
            self._in_a_row = 0
            yield sample

    def _broken(self, where: str, error: object) -> None:
        if not self.skip:
            raise UserError(f"{where}: {error}; pack or copy it again, or set data.skip_broken")
        self.skipped += 1
        self._in_a_row += 1
        if self._in_a_row >= IN_A_ROW:
            raise UserError(f"{where}: {error}; this is number {IN_A_ROW} in a row that is broken: look at data.train")
        if self.skipped <= REPORTED:
            rest = "; further ones are only counted" if self.skipped == REPORTED else ""
            print(f"rank {self.rank} skips {where}: {error}{rest}", file=sys.stderr, flush=True)


def expand(train: str | list[str]) -> list[str]:
    """Expand a list, braces (`train-{000000..000099}.tar`) or a local folder to the addresses of all shards."""
    wds = _webdataset()
    urls: list[str] = []
    for each in [train] if isinstance(train, str) else train:
        if os.path.isdir(each):
            urls += sorted(str(path) for path in Path(each).glob("*.tar"))
            continue
        try:
            urls += wds.shardlists.expand_urls(each)
        except (AssertionError, ValueError) as error:  # an unset variable, an open brace
            raise UserError(f"data.train {each}: {error}; fix the address") from error
    if not urls:
        raise UserError(f"data.train {train}: it names no tar; give addresses, or a folder of tars")
    return urls


def blocks(stream: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """Yield key and tar members of each sample of a tar, for `parse`; BrokenSample if the tar is truncated."""
    key, block = None, bytearray()
    try:
        for name, member in _members(stream):
            stem = name.partition(".")[0]
            if stem != key and key is not None:
                yield key, bytes(block)
                block.clear()
            key = stem
            block += member
            if len(block) > LARGEST:
                raise BrokenSample(f"sample {key} has more than {LARGEST} bytes")
    except BrokenSample:
        if key is not None:  # it may be complete; `parse` checks that
            yield key, bytes(block)
        raise
    if key is not None:
        yield key, bytes(block)


def _members(stream: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of each member with its headers; of these only lengths are checked before `parse`."""
    before, long_name = b"", b""  # headers of the next member
    while (header := _exactly(stream, tarfile.BLOCKSIZE)).strip(b"\0"):
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise BrokenSample(f"no tar header where one should be ({error})") from error
        extends = info.type in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME)
        if not 0 <= info.size <= (LONGEST_NAME - len(before) if extends else LARGEST):
            raise BrokenSample(f"the member {info.name!r} claims {info.size} bytes")
        padded = -(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        data = _exactly(stream, padded) if extends or info.isreg() else b""
        if extends:
            before += header + data
            named = re.search(rb"\d+ path=([^\n]*)\n", data) if info.type == tarfile.XHDTYPE else [b"", data]
            long_name = named[1].rstrip(b"\0") if named else long_name
            continue
        yield long_name.decode(errors="replace") or info.name, before + header + data
        before, long_name = b"", b""
    for _ in range(2 + tarfile.RECORDSIZE // CHUNK):  # read the padding, or a command would die of a closed pipe
        if not stream.read(CHUNK):
            return
    raise BrokenSample("it continues after its end")


def _exactly(stream: BinaryIO, size: int) -> bytes:
    """Read exactly `size` bytes in pieces: memory is not allocated for bytes that are only claimed."""
    data = bytearray()
    while len(data) < size:
        piece = stream.read(min(CHUNK, size - len(data)))
        if not piece:
            raise BrokenSample("it ends early")
        data += piece
    return bytes(data)


def _opened_as(url: str) -> str:
    """Return the address for WebDataset, which has no own S3 client."""
    return f"pipe:aws s3 cp {shlex.quote(url)} -" if url.startswith("s3://") else url


def _end(stream: Any) -> None:
    """Close a stream that may be a command that has not ended."""
    if hasattr(stream, "proc"):
        stream.proc.kill()
    with suppress(OSError):
        stream.close()


def _webdataset() -> Any:
    try:
        import webdataset
    except ImportError as error:
        raise UserError("data.reader stream needs webdataset: pip install 'caad-ds[stream]'") from error
    return webdataset


def first_shard(shards: Sequence[int], rank: int, world_size: int) -> int:
    """Return the shard of the stream that a rank starts with, from each rank's position at the checkpoint.

    Ranks drift apart; if their number has changed, all start where the slowest was.
    """
    return shards[rank] if len(shards) == world_size else min(shards, default=0)
