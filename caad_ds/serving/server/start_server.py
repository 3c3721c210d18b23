"""Load the models, serve, and shut down."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

import uvicorn

from caad_ds.generation.model import Model
from caad_ds.serving.server.app import make_app
from caad_ds.serving.server.connections import most_connections, protocol
from caad_ds.serving.server.limits import Limits
from caad_ds.serving.server.service import Service
from caad_ds.utils.command import note
from caad_ds.utils.device import pick_device

CONNECTIONS = 256  # beside those of pending requests: for the page, health and metrics, and idle ones
HEADERS = 16 << 10  # bytes of a request's line and headers
IDLE = 5  # seconds that a connection stays open for a next request
ASKING = 10  # seconds from a connection, or an answer on it, to the end of a request's headers; for reading an answer
CLOSING = 5  # seconds for connections whose requests have not ended in time


def serve(
    models: Mapping[str, Path], listening: socket.socket, *, key: str, local: bool, limits: Limits,
    device: str | None, dtype: str,
) -> int:  # fmt: skip
    """Serve models by name on a bound socket until SIGTERM or Ctrl-C; returns the exit status."""
    chosen, loaded = pick_device(device), {}
    for name, folder in models.items():
        note(f"loading {folder}")
        loaded[name] = Model.load(folder, chosen, dtype)
    service = Service(loaded, limits)
    server = _Server(config_of(service, key, local))
    host, port = listening.getsockname()[:2]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    server.ready = f"serving {', '.join(loaded)} at {address}; Ctrl-C ends it"
    try:
        asyncio.run(_until_ended(server, service, listening))
    finally:
        service.close()
    return 0


def config_of(service: Service, key: str, local: bool) -> uvicorn.Config:
    """Return uvicorn's configuration for a service; it logs nothing."""
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # it would report requests that are not HTTP
    most = most_connections(service.limits.waiting + CONNECTIONS)
    return uvicorn.Config(
        make_app(service, key, local), http=protocol(most, ASKING), ws="none", lifespan="off", log_config=None,
        access_log=False, server_header=False, timeout_graceful_shutdown=CLOSING, timeout_keep_alive=IDLE,
        h11_max_incomplete_event_size=HEADERS,
    )  # fmt: skip


class _Server(uvicorn.Server):
    """uvicorn's server; it reports when it listens, and only `_until_ended` ends it."""

    ready: str

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no handlers: uvicorn's own refuse connections at once, and end the process by the signal."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        note(self.ready)


async def _until_ended(server: _Server, service: Service, listening: socket.socket) -> None:
    """Run until a signal; then new requests get 503 until those inside have ended. A second signal ends it at once.

    The first one installs `_end_at_once` for the next, which also works while threads are joined after the loop.
    """
    loop, signals = asyncio.get_running_loop(), (signal.SIGTERM, signal.SIGINT)
    ending: list[asyncio.Task] = []  # kept, since a loop holds its tasks weakly

    async def end() -> None:
        if not await service.drained():
            note(f"{service.inside} requests were not answered within {service.limits.drain:g} s")
        server.should_exit = True

    def stop() -> None:
        if ending:  # two signals arrived before this ran
            _end_at_once()
        for number in signals:
            loop.remove_signal_handler(number)
            signal.signal(number, _end_at_once)
        ending.append(loop.create_task(end()))

    for number in signals:
        loop.add_signal_handler(number, stop)
    await server.serve(sockets=[listening])


def _end_at_once(*_: object) -> None:
    """End the process at once, whatever its threads do, with status 0, as after one signal."""
    try:
        note("ended at once, by a second signal")
    finally:
        os._exit(0)
