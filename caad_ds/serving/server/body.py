"""The body of a request, no more of it than is allowed, whatever its header says."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from caad_ds.serving.server.refusals import Refused

DISCARDED = 1 << 26  # bytes of a body that nobody wants, read all the same
IDLE = 1.0  # seconds that a client which neither sends nor reads is waited for


class Gone(Exception):
    """The client has hung up."""


class Body:
    """What `receive` of an ASGI application gives of a request's body."""

    def __init__(self, receive: Any):
        self._receive = receive
        self._more = True

    async def read_json(self, headers: Mapping[str, str], most: int) -> bytes:
        """A body of JSON; Refused where it is of another type (415) or longer than `most` bytes (413)."""
        if headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
            raise Refused(415, "Content-Type: a question is application/json")
        too_large = Refused(413, f"the body is larger than {most:,} bytes; send less, or compressed, audio")
        if int(headers.get("content-length", "0")) > most:  # the protocol has seen that it is a number
            raise too_large
        body = bytearray()
        async for part in self._parts():
            body += part
            if len(body) > most:
                raise too_large
        return bytes(body)

    async def discard(self) -> None:
        """Read what is left: a client that still sends would lose the answer where the connection ends."""
        read, parts = 0, self._parts()
        try:
            while read < DISCARDED:
                async with asyncio.timeout(IDLE):
                    read += len(await anext(parts))
        except (StopAsyncIteration, TimeoutError):
            return

    async def _parts(self) -> AsyncIterator[bytes]:
        while self._more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Gone
            self._more = message.get("more_body", False)
            yield message.get("body", b"")
