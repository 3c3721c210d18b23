"""Detect AIFF, AU, CAF, FLAC and SPHERE files with more samples than the header says: from a killed recorder or a pipe.

libsndfile silently reads only as much as the header says. In a SPHERE file (NIST, LDC) it reads all samples and ignores
the header, so truncated ones are also detected here. WAV files are in wav.py.
"""

import os
import re
from typing import BinaryIO

from caad_ds.utils.errors import AudioError

SLACK = 4096  # bytes that may follow the samples without being a chunk
OPEN = 0xFFFFFFFF  # an AU's unknown length
SPHERE_HEADER = 1024
SPHERE = re.compile(rb"^(sample_count|sample_rate|channel_count|sample_n_bytes) -(?:i|s\d+) (\d+)", re.MULTILINE)
CODING = re.compile(rb"^sample_coding -s\d+ (\S+)", re.MULTILINE)
PLAIN = (b"pcm", b"ulaw", b"mu-law", b"alaw")  # of one size per sample
CUT_SECONDS = 0.1


def check(file: BinaryIO) -> None:
    """Raise AudioError if samples continue after the length in the header, or a SPHERE file ends before it; the file is
    left at its start."""
    try:
        _check(file)
    finally:
        file.seek(0)


def _check(file: BinaryIO) -> None:
    file.seek(0)
    head = file.read(26)
    end = file.seek(0, os.SEEK_END)
    if head[:4] == b"fLaC" and head[4] & 0x7F == 0:
        stop = _end_of_flac(file, head, end)
    elif head[:4] == b".snd":
        start, size = int.from_bytes(head[4:8]), int.from_bytes(head[8:12])
        stop = end if size == OPEN else start + size
    elif head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        stop = _end_of_chunks(file, 12, end, b"SSND", 4)
    elif head[:4] == b"caff":
        stop = _end_of_chunks(file, 8, end, b"data", 8)
    elif head[:7] == b"NIST_1A":
        stop = _end_of_sphere(file, end)
    else:
        return
    if end - stop > SLACK:
        raise AudioError(
            f"its header says {stop:,} bytes, the file has {end:,}: was its recorder killed? Write the file again"
        )


def _end_of_flac(file: BinaryIO, head: bytes, end: int) -> int:
    """Return the offset after the header's number of frames, all of its longest size."""
    shortest, block, longest = (int.from_bytes(head[a:b]) for a, b in ((8, 10), (10, 12), (15, 18)))
    samples = int.from_bytes(head[21:26]) & 0xFFFFFFFFF
    if not samples:
        raise AudioError("a FLAC that does not say its length: was it written to a pipe? Encode it again")
    if shortest != block or not longest:  # frames of different lengths or unknown sizes
        return end
    at, last = 4, False
    while not last and at + 4 <= end:
        file.seek(at)
        kind, size = file.read(1)[0], int.from_bytes(file.read(3))
        last, at = kind >= 0x80, at + 4 + size
    return min(at + -(-samples // block) * longest, end)


def _end_of_sphere(file: BinaryIO, end: int) -> int:
    """Return the offset after the header's samples; AudioError if the file ends before it by 0.1 s."""
    file.seek(0)
    header = file.read(SPHERE_HEADER)
    fields = {name: int(value) for name, value in SPHERE.findall(header)}
    coding = CODING.search(header)
    frame = fields.get(b"channel_count", 1) * fields.get(b"sample_n_bytes", 0)
    count, rate = fields.get(b"sample_count"), fields.get(b"sample_rate")
    start = re.match(rb"NIST_1A\n\s*(\d+)\n", header)
    if not (start and frame and count and rate) or (coding and coding[1] not in PLAIN):
        return end
    actual = (end - int(start[1])) / frame
    if count - actual > CUT_SECONDS * rate:
        raise AudioError(f"the file is cut short: {actual / rate:.2f} of {count / rate:.2f} s are there")
    return int(start[1]) + count * frame


def _end_of_chunks(file: BinaryIO, at: int, end: int, samples: bytes, width: int) -> int:
    """Return the end of the chunks from `at` on, whose length fields have `width` bytes; `end` if none are the samples,
    or their length is unknown."""
    has_samples = False
    while at + 4 + width <= end:
        file.seek(at)
        name, size = file.read(4), int.from_bytes(file.read(width), signed=width == 8)
        if name == samples and size <= 0:
            return end
        if has_samples and not (name.isascii() and name.decode("ascii").isprintable()):
            break
        has_samples |= name == samples
        at += 4 + width + size + (size % 2 if width == 4 else 0)
    return min(at, end) if has_samples else end
