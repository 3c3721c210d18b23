"""Detect damage in Ogg files, where libsndfile silently drops incomplete pages.

The pages of RFC 3533 are numbered and have checksums. A file that was cut between two pages looks complete, since not
every encoder marks the last page.
"""

import zlib
from typing import BinaryIO

HEAD = 27  # bytes before a page's table of segments
FIRST = 2  # the flag of a stream's first page
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def damage(file: BinaryIO) -> str | None:
    """Describe damage in the pages of an Ogg file, or None; the file is left at its start."""
    try:
        return _damage(file)
    finally:
        file.seek(0)


def _damage(file: BinaryIO) -> str | None:
    file.seek(0)
    at, numbers, begun = 0, dict[bytes, int](), False
    while head := file.read(HEAD):
        if head[:3] in (b"TAG", b"ID3"):
            return None
        if head[:4] != b"OggS":
            return f"the file is damaged at byte {at}, where no page begins"
        table = file.read(head[26]) if len(head) == HEAD else b""
        body = file.read(sum(table))
        if len(head) < HEAD or len(table) < head[26] or len(body) < sum(table):
            return f"the file is cut short, in the page at byte {at}"
        if _checksum(head[:22] + bytes(4) + head[26:] + table + body) != int.from_bytes(head[22:26], "little"):
            return f"the file is damaged in the page at byte {at} (its checksum differs)"
        stream, number = head[14:18], int.from_bytes(head[18:22], "little")
        if head[5] & FIRST:
            if begun:
                return f"another stream begins at byte {at}, which is not read; split the file there"
        elif number != numbers.get(stream, -1) + 1:
            return f"the file is damaged: pages are missing before byte {at}"
        else:
            begun = True
        numbers[stream] = number
        at += HEAD + len(table) + len(body)
    return None


def _checksum(page: bytes) -> int:
    """Compute CRC-32 with the polynomial 0x04c11db7 and bits not reversed, by zlib on reversed bits."""
    crc = zlib.crc32(page.translate(REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)
