"""Limits on connections: their number, and how long one may be idle or not read its response."""

import asyncio
import resource

from uvicorn.protocols.http.h11_impl import H11Protocol

BESIDE = 64  # descriptors of files, of the listening socket and of what libraries open


def most_connections(wanted: int) -> int:
    """Return the number of connections, at most `wanted`, that the limit on open files permits."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - BESIDE))


def protocol(most: int, seconds: float) -> type[H11Protocol]:
    """Return uvicorn's connection class, closed at once beyond `most` open ones, and after `seconds` of waiting.

    uvicorn itself waits without limit for the first header, for the rest of a refused body, and for a client to read
    its response. The time that the model takes for a response does not count, only that in which the client must read:
    the buffer is full, or the response complete.
    """

    class Connection(H11Protocol):
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > most:
                transport.abort()
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._watch()

        def resume_writing(self) -> None:
            super().resume_writing()
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._forget()

        def _watch(self) -> None:
            asks_nothing = self.cycle is None or self.cycle.response_complete
            # One that is closing still waits until what is written has been read.
            if not (asks_nothing or self.flow.write_paused or self.transport.is_closing()):
                self._forget()
            elif self._deadline is None:
                self._deadline = self.loop.call_later(seconds, self.transport.abort)

        def _forget(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

    return Connection
