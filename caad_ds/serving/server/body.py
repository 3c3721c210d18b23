"""The body of a request, no more of it than is allowed, whatever its header says.

What is left of a body that is refused need not be read here: uvicorn passes over it.
"""

from collections.abc import Mapping
from typing import Any

from caad_ds.serving.server.refusals import Refused


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
