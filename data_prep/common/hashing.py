"""Pseudo-random choices by the hash of a name: stable when records are added, removed or reordered."""

import hashlib


def digest(name: str) -> bytes:
    """Return the sha256 of a text."""
    return hashlib.sha256(name.encode()).digest()


def fraction(name: str) -> float:
    """Map a text to a number in [0, 1) by its hash, uniformly over texts."""
    return int.from_bytes(digest(name)[:6], "big") / 2**48
