"""What a server takes at most."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of one request and of all at once.

    `seconds` run from a request's first byte to the last of its answer. `waiting` requests may be in the server at
    once, with `audio_seconds` of decoded audio, of which each has `request_seconds`; `batch` are answered together.
    `drain` is how long a server that is to end waits for the rest.
    """

    body_bytes: int
    seconds: float
    clips: int
    audio_seconds: float
    request_seconds: float
    new_tokens: int
    most_new_tokens: int
    waiting: int
    batch: int
    drain: float
