"""Read the body of a request up to a limit, whatever its header says.

The rest of a refused body is not read here; uvicorn skips it.
"""

import re
from collections.abc import Mapping
from typing import Any

from caad_ds.serving.server.refusals import Refused

STRUCTURE = 1 << 16  # bytes outside of strings and strings: what makes objects, of which each costs a hundred bytes
STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)  # one without its end reaches to that of the body


class Gone(Exception):
    """The client has disconnected."""


async def read_json(headers: Mapping[str, str], receive: Any, most: int) -> bytes:
    """Return a JSON body; Refused if it has another type (415) or more than `most` bytes (413)."""
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
    """Raise Refused (400), before it is parsed, for a JSON body of too many objects.

    Long strings are cheap to parse; each bracket, number and name becomes an object.
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
    """Return where the string that begins at `begin` ends; most are files in base64, without escapes."""
    end = body.find(b'"', begin + 1) + 1 or len(body)
    if body.find(b"\\", begin, end) < 0:
        return end
    string = STRING.match(body, begin)
    return len(body) if string is None else string.end()
