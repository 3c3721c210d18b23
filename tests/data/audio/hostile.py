"""Tars that someone wrote to do harm, or that a disk has harmed: each holds a sample `a` that must not be believed."""

import json
import tarfile
from pathlib import Path

import numpy as np

from caad_ds.data.audio.flac import encode
from tests.data.tones import record

TEN_GB = 10 << 30
FLAC = encode(np.zeros(1600, "<i2"))
RECORD = json.dumps(record("a", Path("a.flac"))).encode()


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, **fields: object) -> bytes:
    """Header and data of a member; `fields` of the header may say anything."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


def pax(name: str, data: bytes, **records: str) -> bytes:
    """A member with PAX records before it."""
    lines = b""
    for key, value in records.items():
        body = f" {key.replace('_', '.')}={value}\n".encode()
        length = len(body) + len(str(len(body) + 2))
        lines += str(length).encode() + body
    return member("PaxHeader", lines, tarfile.XHDTYPE) + member(name, data)


def sparse() -> bytes:
    """GNU's old form: 512 bytes are there, 10 GB are claimed in the field of the real size."""
    header = bytearray(member("a.flac", bytes(512), tarfile.GNUTYPE_SPARSE))
    header[386:398], header[398:410] = b"00000000000\0", b"00000001000\0"  # one piece of 512 bytes at 0
    header[483:495] = b"%011o\0" % TEN_GB
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    return bytes(header)


GOOD = member("a.json", RECORD) + member("a.flac", FLAC)
SPARSE_PAX = {"GNU_sparse_major": "1", "GNU_sparse_minor": "0", "GNU_sparse_realsize": str(TEN_GB)}
# A minute of silence takes hundreds of bytes: it lasts longer than the index, or a window, allows.
BOMB = encode(np.zeros(60 * 16_000, "<i2"))

HOSTILE: dict[str, tuple[bytes, str]] = {
    "a name that leaves the folder": (member("a.json", RECORD) + member("../a.flac", FLAC), "leaves the shard|belongs"),
    "an absolute name": (member("a.json", RECORD) + member("/etc/a.flac", FLAC), "leaves the shard|belongs"),
    "a symbolic link": (
        member("a.json", RECORD) + member("a.flac", b"", tarfile.SYMTYPE, linkname="/etc/passwd"),
        "no plain file",
    ),
    "a hard link": (
        member("a.json", RECORD) + member("a.flac", b"", tarfile.LNKTYPE, linkname="a.json"),
        "no plain file",
    ),
    "a device": (member("a.json", RECORD) + member("a.flac", b"", tarfile.CHRTYPE, devmajor=1), "no plain file"),
    "a pipe": (member("a.json", RECORD) + member("a.flac", b"", tarfile.FIFOTYPE), "no plain file"),
    "a folder": (member("a.json", RECORD) + member("a.flac", b"", tarfile.DIRTYPE), "no plain file"),
    "10 GB, sparse": (member("a.json", RECORD) + sparse(), "no plain file"),
    "10 GB, sparse in PAX": (
        member("a.json", RECORD) + pax("a.flac", b"1\n0\n512\n" + bytes(504 + 512), **SPARSE_PAX),
        "no plain file|claims",
    ),
    "a sparse map without end": (
        member("a.json", RECORD) + pax("a.flac", b"99999999\n" + b"1\n" * 400, **SPARSE_PAX),
        "no tar members|no plain file",
    ),
    "10 GB in the header": (
        member("a.json", RECORD) + member("a.flac", FLAC, size=TEN_GB),
        "claims 10737418240 bytes",
    ),
    "10 GB in PAX": (member("a.json", RECORD) + pax("a.flac", FLAC, size=str(TEN_GB)), "claims|missing|members are"),
    "less than nothing": (member("a.json", RECORD) + member("a.flac", FLAC, size=-512), "claims -512 bytes"),
    "less than nothing in PAX": (
        member("a.json", RECORD) + pax("a.flac", FLAC, size="-1024"),
        "claims|missing|members are",
    ),
    "headers of 10 GB": (
        member("a.json", RECORD) + member("PaxHeader", b"", tarfile.XHDTYPE, size=TEN_GB),
        "claims 10737418240 bytes",
    ),
    "headers upon headers": (
        member("a.json", RECORD) + member("p", b"6 a=b\n", tarfile.XHDTYPE) * 2_000 + member("a.flac", FLAC),
        "no tar members|headers",
    ),
    "a member twice": (
        member("a.json", RECORD) + member("a.flac", FLAC) + member("a.flac", FLAC),
        "twice",
    ),
    "audio without end": (member("a.json", RECORD) + member("a.flac", BOMB), "claims to last 60.0 s"),
    "JSON nested without end": (member("a.json", b"[" * 100_000) + member("a.flac", FLAC), "no JSON"),
    "a record of another kind": (member("a.json", b'{"audios": [{}]}') + member("a.flac", FLAC), "a list `messages`"),
    "a record with another number of audios": (
        member("a.json", RECORD.replace(b"<|AUDIO|>", b"")) + member("a.flac", FLAC),
        r"messages hold 0 <\|AUDIO\|>, its record 1 audios",
    ),
    "a message that is a number": (
        member("a.json", b'{"audios": [{}], "messages": [1], "response": ""}') + member("a.flac", FLAC),
        "each of `messages` must be an object with role and content",
    ),
}


def tar(*members: bytes) -> bytes:
    """Members and the end of the archive."""
    return b"".join(members) + bytes(1024)
