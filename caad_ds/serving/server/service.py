"""The served models, and the requests being answered."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from caad_ds.generation.model import Model
from caad_ds.serving.server.batching import Answer, Job, Update, Worker
from caad_ds.serving.server.chat_request import ChatRequest, read_request
from caad_ds.serving.server.decoded_audio_limit import Room, Share
from caad_ds.serving.server.limits import Limits
from caad_ds.serving.server.metrics import Metrics
from caad_ds.serving.server.model_input import Prepared, prepare
from caad_ds.serving.server.refusals import Refused
from caad_ds.utils.errors import UserError

READERS = 2  # threads that decode audio and encode texts


class Updates:
    """Passes the updates of an answer from the worker's thread to the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._updates: asyncio.Queue[Update] = asyncio.Queue()

    def give(self, update: Update) -> None:
        """Pass an update on; called in the worker's thread, perhaps after the loop has ended."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._updates.put_nowait, update)

    async def take(self) -> str | Answer:
        """Wait for the next piece of the text, or the answer; Refused if the answer failed."""
        update = await self._updates.get()
        if isinstance(update, UserError):
            raise Refused(400, str(update)[:500])
        if isinstance(update, Exception):
            raise Refused(500, "the model failed on this request; the server's log has the reason")
        return update


@dataclass(frozen=True)
class ParsedRequest:
    """A parsed request, and its input for the model."""

    request: ChatRequest
    prepared: Prepared


class Service:
    """Models by the names that requests use, each with a worker, and one limit on the number of requests.

    `draining`: the server is about to end and accepts no new request.
    """

    def __init__(self, models: Mapping[str, Model], limits: Limits):
        self.models, self.limits = models, limits
        for model in models.values():
            model.reader.positions_of(1.0)  # some compute it at the first call: here, before there are two threads
        self.draining = False
        self.inside = 0
        self.metrics = Metrics(lambda: sum(each.waiting for each in self._workers.values()), lambda: self.inside)
        self._workers = {name: Worker(model, limits.batch, self.metrics.batch) for name, model in models.items()}
        self.room = Room(limits.audio_seconds, limits.request_seconds)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="caad-ds request")

    @property
    def healthy(self) -> bool:
        """Return whether a request would be answered."""
        return not self.draining and all(worker.healthy for worker in self._workers.values())

    def enter(self) -> None:
        """Count a new request; Refused if the server ends or has failed (503), or has too many (429)."""
        if self.draining:
            raise Refused(503, "the server is about to end; ask again later")
        if not all(worker.alive for worker in self._workers.values()):
            raise Refused(503, "the server has failed; its log has the reason, start it again")
        if self.inside >= self.limits.waiting:
            raise Refused(429, f"{self.inside} requests wait already; ask again later")
        self.inside += 1

    def leave(self) -> None:
        """Count the end of a request."""
        self.inside -= 1

    async def parse(self, body: bytes, share: Share) -> ParsedRequest:
        """Parse and decode a request's body outside the event loop; Refused as `prepare` does."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._parse, body, share)

    def _parse(self, body: bytes, share: Share) -> ParsedRequest:
        request = read_request(body)
        if request.model not in self.models:
            named = ", ".join(self.models)
            raise Refused(404, f"model: {request.model[:80]!r} is not served here; ask {named}", "model")
        return ParsedRequest(request, prepare(request, self.models[request.model].reader, self.limits, share))

    @asynccontextmanager
    async def answering(self, parsed: ParsedRequest) -> AsyncIterator[Updates]:
        """Start a request's answer and return its updates; leaving the context early cancels the answer."""
        updates = Updates()
        job = Job(parsed.prepared, bool(parsed.request.stream), updates.give)
        worker = self._workers[parsed.request.model]
        worker.put(job)
        try:
            yield updates
        finally:
            worker.cancel(job)

    async def drained(self) -> bool:
        """Accept no more requests and wait for the pending ones up to the limit; returns whether all have ended."""
        self.draining = True
        end = asyncio.get_running_loop().time() + self.limits.drain
        while self.inside and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.05)
        return not self.inside

    def close(self) -> None:
        """End all threads."""
        self._readers.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers.values():
            worker.close()
