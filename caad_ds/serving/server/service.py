"""The models that are served, and the requests that are inside at a time."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from caad_ds.generation.model import Model
from caad_ds.serving.server.batching import Answer, Job, Update, Worker
from caad_ds.serving.server.limits import Limits
from caad_ds.serving.server.metrics import Metrics
from caad_ds.serving.server.prepare import Prepared, prepare
from caad_ds.serving.server.refusals import Refused
from caad_ds.serving.server.request import ChatRequest, read_request
from caad_ds.serving.server.room import Room, Share
from caad_ds.utils.errors import UserError

READERS = 2  # threads that decode audio and encode texts


class Updates:
    """The updates of an answer, from the worker's thread to the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._updates: asyncio.Queue[Update] = asyncio.Queue()

    def give(self, update: Update) -> None:
        """Called in the worker's thread, perhaps after the loop has ended."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._updates.put_nowait, update)

    async def take(self) -> str | Answer:
        """The next piece of the text, or the answer; Refused where there is none."""
        update = await self._updates.get()
        if isinstance(update, UserError):
            raise Refused(400, str(update)[:500])
        if isinstance(update, Exception):
            raise Refused(500, "the model failed on this request; the server's log has the reason")
        return update


@dataclass(frozen=True)
class ParsedRequest:
    """A request, and what is made of it for its model."""

    request: ChatRequest
    prepared: Prepared


class Service:
    """Models by the names that requests call them, each with a worker, behind one bound of requests.

    `draining` says that the server is about to end: it takes no request any more.
    """

    def __init__(self, models: Mapping[str, Model], limits: Limits):
        self.models, self.limits = models, limits
        for model in models.values():
            model.reader.positions_of(1.0)  # some find that out at the first call, which two threads would make at once
        self.draining = False
        self.inside = 0
        self.metrics = Metrics(lambda: sum(each.waiting for each in self._workers.values()), lambda: self.inside)
        self._workers = {name: Worker(model, limits.batch, self.metrics.batch) for name, model in models.items()}
        self.room = Room(limits.audio_seconds, limits.request_seconds)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="caad-ds request")

    @property
    def healthy(self) -> bool:
        """Whether a request would be answered."""
        return not self.draining and all(worker.healthy for worker in self._workers.values())

    def enter(self) -> None:
        """Count a request in; Refused where the server ends or has failed (503) or has as many as it takes (429)."""
        if self.draining:
            raise Refused(503, "the server is about to end; ask again later")
        if not all(worker.alive for worker in self._workers.values()):
            raise Refused(503, "the server has failed; its log has the reason, start it again")
        if self.inside >= self.limits.waiting:
            raise Refused(429, f"{self.inside} requests wait already; ask again later")
        self.inside += 1

    def leave(self) -> None:
        """Count it out."""
        self.inside -= 1

    async def parse(self, body: bytes, share: Share) -> ParsedRequest:
        """Read a request's body, beside the event loop; Refused."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._parse, body, share)

    def _parse(self, body: bytes, share: Share) -> ParsedRequest:
        request = read_request(body)
        if request.model not in self.models:
            named = ", ".join(self.models)
            raise Refused(404, f"model: {request.model[:80]!r} is not served here; ask {named}", "model")
        return ParsedRequest(request, prepare(request, self.models[request.model].reader, self.limits, share))

    @asynccontextmanager
    async def answering(self, parsed: ParsedRequest) -> AsyncIterator[Updates]:
        """The events of a request's answer; left before its end, the answer ends as well."""
        updates = Updates()
        job = Job(parsed.prepared, bool(parsed.request.stream), updates.give)
        worker = self._workers[parsed.request.model]
        worker.put(job)
        try:
            yield updates
        finally:
            worker.cancel(job)

    async def drained(self) -> bool:
        """Take no more requests and wait for those inside, as long as the limit says; whether all have ended."""
        self.draining = True
        end = asyncio.get_running_loop().time() + self.limits.drain
        while self.inside and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.05)
        return not self.inside

    def close(self) -> None:
        """End the threads."""
        self._readers.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers.values():
            worker.close()
