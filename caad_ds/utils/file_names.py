"""Ids as the names of files: one place decides, so that two ids never share a file."""

import hashlib
from collections import Counter
from collections.abc import Collection
from urllib.parse import quote

LONGEST = 255  # bytes of a file's name, of the usual file systems
MARK = "+"  # before a hash; percent-encoding leaves none
HASH = 32  # hex digits


def encoded(identity: str) -> str:
    """An id with all that a file system, a URL or WebDataset would misread (slashes, dots) percent-encoded; no two ids
    have one encoding."""
    return quote(identity, safe="").replace(".", "%2E")


def file_name(identity: str, suffix: str = "", room: int = 0) -> str:
    """The name of an id's file: `encoded`, cut and with a hash of the id where a file system would refuse its length.

    `room` bytes are left for what is put after it.
    """
    return _stem(identity, len(suffix.encode()) + room) + suffix


def stems(identities: Collection[str], room: int = 0) -> dict[str, str]:
    """The file name of each id without its suffix, which has `room` bytes.

    Two that differ in case alone have a hash, since some file systems do not tell them apart.
    """
    names = {identity: _stem(identity, room) for identity in identities}
    alike = Counter(name.lower() for name in names.values())
    return {i: name if alike[name.lower()] == 1 else _hashed(i, room) for i, name in names.items()}


def _stem(identity: str, room: int) -> str:
    name = encoded(identity)
    return name if len(name) <= LONGEST - room else _hashed(identity, room)


def _hashed(identity: str, room: int) -> str:
    digest = hashlib.sha256(identity.encode()).hexdigest()[:HASH]
    return f"{encoded(identity)[: LONGEST - room - len(MARK) - HASH]}{MARK}{digest}"
