"""The limits of a server."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of one request, and of all requests together.

    `seconds`: from a request's first byte to the last one of its answer. `waiting`: requests in the server at once;
    `audio_seconds`: their decoded audio together, of which one request has at most `request_seconds`. `batch`: requests
    answered together. `drain`: seconds that a server waits at its end for the answers to pending requests.
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
