"""Read WAV files whose header was never completed: a killed recorder leaves lengths of 0, or earlier ones.

A recorder that writes to a pipe leaves the maximum length. Reading ends before chunks that follow the samples.
"""

import io
import os
import re
import string
from typing import BinaryIO, Literal, cast

from caad_ds.utils.errors import AudioError

UNKNOWN = 0x7FFF0000  # and above: unknown lengths, which libsndfile handles
SLACK_SECONDS = 0.1
TAGS = (b"ID3", b"TAG")
LETTERS = frozenset(string.ascii_letters.encode() + string.digits.encode() + b" _-")
TAIL = 1 << 20  # bytes at the end in which chunks after the samples are looked for
CHUNK = re.compile(rb"(?=[A-Za-z0-9 _-]{4}([\s\S]{4}))")
ID3V1 = 128  # bytes of a tag at the end of a file


def repaired(file: BinaryIO) -> BinaryIO | None:
    """Return the file with its actual length if its header says 0; None if the header is right.

    AudioError if samples continue after the length in the header. The file is left at its start.
    """
    try:
        return _repaired(file)
    finally:
        file.seek(0)


def _repaired(file: BinaryIO) -> BinaryIO | None:
    file.seek(0)
    head = file.read(12)
    if head[:4] not in (b"RIFF", b"RIFX") or head[8:] != b"WAVE":
        return None
    order: Literal["little", "big"] = "little" if head[:4] == b"RIFF" else "big"
    end, at, per_second, frame = file.seek(0, os.SEEK_END), 12, 0, 1
    while at + 8 <= end:
        file.seek(at)
        name, size = file.read(4), int.from_bytes(file.read(4), order)
        if name == b"fmt ":
            per_second = int.from_bytes(file.read(12)[8:], order)
            frame = int.from_bytes(file.read(2), order) or 1
        if name == b"data":
            break
        at += 8 + size + size % 2
    else:
        return None
    start, actual = at + 8, end - at - 8
    if actual <= size < UNKNOWN:
        return None
    if size < actual and any(_are_chunks(file, offset, end, order) for offset in (start + size, start + size + 1)):
        return None
    if not size or size >= UNKNOWN:
        samples = _samples_end(file, start, end, order) - start
        if samples == actual and size:
            return None
        if samples < actual and _padded(file, start, samples, frame):
            samples -= 1
        lengths = {4: min(end - 8, 0xFFFFFFFF), at + 4: min(samples, 0xFFFFFFFF)}
        patches = {offset: value.to_bytes(4, order) for offset, value in lengths.items()}
        return cast(BinaryIO, _Patched(file, patches))
    if actual - size > SLACK_SECONDS * per_second:
        raise AudioError(
            f"its header says {size} bytes of samples, {actual} follow: was its recorder killed? Write the file again"
        )
    return None


def _samples_end(file: BinaryIO, start: int, end: int, order: Literal["little", "big"]) -> int:
    """Return the end of samples of unknown length from `start`: before chunks or a tag at the end of the file."""
    first = max(start, end - TAIL)
    file.seek(first)
    tail = file.read(end - first)
    stop = len(tail) - ID3V1 if tail[-ID3V1 : -ID3V1 + 3] == b"TAG" else len(tail)
    begins = {stop}
    for chunk in reversed([*CHUNK.finditer(tail, 0, stop)]):
        size = int.from_bytes(chunk[1], order)
        after = chunk.start() + 8 + size
        if size and (after in begins or after + size % 2 in begins):
            begins.add(chunk.start())
    return first + min(begins)


def _padded(file: BinaryIO, start: int, samples: int, frame: int) -> bool:
    """Return whether the last byte before a chunk pads to an even length; as an 8-bit sample, 0 is the loudest."""
    file.seek(start + samples - 1)
    return samples % 2 == 0 and samples % frame == (frame > 1) and file.read(1) == b"\0"


def _are_chunks(file: BinaryIO, at: int, end: int, order: Literal["little", "big"]) -> bool:
    """Return whether only chunks follow an offset to the file's end, or a tag."""
    while at + 8 <= end:
        file.seek(at)
        name, size = file.read(4), int.from_bytes(file.read(4), order)
        if name[:3] in TAGS:
            return True
        if not LETTERS.issuperset(name) or at + 8 + size > end:
            return False
        at += 8 + size + size % 2
    return True


class _Patched(io.RawIOBase):
    """A file with some bytes replaced when read."""

    def __init__(self, file: BinaryIO, patches: dict[int, bytes]) -> None:
        self._file = file
        self._patches = patches

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def,override]
        first = self._file.tell()
        data = bytearray(self._file.read(len(buffer)))
        for offset, patch in self._patches.items():
            for number, value in enumerate(patch, offset - first):
                if 0 <= number < len(data):
                    data[number] = value
        buffer[: len(data)] = data
        return len(data)
