"""The body of a request, no more of it than is allowed, whatever its header says.

What is left of a body that is refused need not be read here: uvicorn passes over it.
"""

import re
from collections.abc import Mapping
from typing import Any

from caad_ds.serving.server.refusals import Refused

STRUCTURE = 1 << 16  # bytes outside of strings and strings: what makes objects, of which each costs a hundred bytes
STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)  # one without its end reaches to that of the body


class Gone(Exception):
    """The client has hung up."""


async def read_json(headers: Mapping[str, str], receive: Any, most: int) -> bytes:
    """A body of JSON; Refused where it is of another type (415) or longer than `most` bytes (413)."""
    if headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise Refused(415, "Content-Type: a question is application/json")
    too_large = Refused(413, f"the body is larger than {most:,} bytes; send less, or compressed, audio")
    if int(headers.get("content-length", "0")) > most:  # the protocol has seen that it is a number
        raise too_large
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        body += message.get("body", b"")
        if len(body) > most:
            raise too_large
        more = message.get("more_body", False)
    return bytes(body)


def check_structure(body: bytes) -> None:
    """Refuse (400) a body of JSON that is more than a few texts and files, before it is parsed.

    The length of a string costs nothing beside the body's own; each bracket, number and name is an object.
    """
    cost = end = 0
    while cost <= STRUCTURE and end < len(body):
        begin = body.find(b'"', end)
        if begin < 0:
            begin = len(body)
        cost += begin - end + 1
        end = _end_of_string(body, begin)
    if cost > STRUCTURE:
        raise Refused(
            400, f"the body has more than {STRUCTURE:,} bytes and strings beside its texts; send fewer fields"
        )


def _end_of_string(body: bytes, begin: int) -> int:
    """Where the string ends that begins there; most are files in base64, where nothing is escaped."""
    end = body.find(b'"', begin + 1) + 1 or len(body)
    if body.find(b"\\", begin, end) < 0:
        return end
    string = STRING.match(body, begin)
    return len(body) if string is None else string.end()
