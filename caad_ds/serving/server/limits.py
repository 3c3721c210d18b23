"""What a server takes at most."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of one request and of all at once.

    `seconds` run from a request's first byte to the last of its answer. `waiting` requests may be in the server at
    once, of which `batch` are answered together. `drain` is how long a server that is to end waits for the rest.
    """

    body_bytes: int
    seconds: float
    clips: int
    new_tokens: int
    most_new_tokens: int
    waiting: int
    batch: int
    drain: float
