"""Convert ids to unique file names."""

import hashlib
from collections import Counter
from collections.abc import Collection
from urllib.parse import quote

LONGEST = 255  # bytes of a file's name, of the usual file systems
MARK = "+"  # before a hash; percent-encoding leaves none
HASH = 32  # hex digits


def encoded(identity: str) -> str:
    """Percent-encode all that a file system, a URL or WebDataset would misread (slashes, dots) in an id; encodings are
    unique."""
    return quote(identity, safe="").replace(".", "%2E")


def file_name(identity: str, suffix: str = "", room: int = 0) -> str:
    """Return the name of an id's file: `encoded`, or if too long for a file system, truncated with a hash of the id.

    `room` bytes are reserved for a further suffix.
    """
    return _stem(identity, len(suffix.encode()) + room) + suffix


def stems(identities: Collection[str], room: int = 0) -> dict[str, str]:
    """Return the file name of each id without its suffix, which has `room` bytes.

    Names that differ only in case get a hash, since some file systems ignore case.
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
