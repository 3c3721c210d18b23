"""Choices that depend on a name alone: stable when records are added, removed or reordered."""

import hashlib


def digest(name: str) -> bytes:
    """sha256 of a text."""
    return hashlib.sha256(name.encode()).digest()


def fraction(name: str) -> float:
    """A number in [0, 1) drawn by the hash of a text, evenly over texts."""
    return int.from_bytes(digest(name)[:6], "big") / 2**48
