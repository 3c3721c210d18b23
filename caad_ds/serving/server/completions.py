"""The route of chat completions, from the body of a request to its response."""

import asyncio
import contextlib
import sys
import time
import traceback
from collections.abc import Awaitable, Iterator, Sequence
from typing import Any, TypeVar

from fastapi.datastructures import Headers

from caad_ds.serving.server import replies
from caad_ds.serving.server.batching import Answer
from caad_ds.serving.server.bounded_body import Gone, read_json
from caad_ds.serving.server.chat_request import ChatRequest
from caad_ds.serving.server.decoded_audio_limit import Share
from caad_ds.serving.server.refusals import Refused
from caad_ds.serving.server.service import Service, Updates

T = TypeVar("T")
HUNG_UP = 499  # nginx's status for it; it is only counted


class Completions:
    """The ASGI application of the route; not a FastAPI function, since a stream outlives a function's return."""

    def __init__(self, service: Service):
        self.service = service

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        await _Completion(self.service, scope, receive, send).run()


class _Completion:
    """One request; it occupies a place in the service until its answer ends or fails, and is counted by its status."""

    def __init__(self, service: Service, scope: Any, receive: Any, send: Any):
        self.service, self.scope, self.receive, self.send = service, scope, receive, send
        self._begun = False  # whether a status was sent

    async def run(self) -> None:
        began, status = time.perf_counter(), HUNG_UP
        try:
            with self._inside():
                await self._in_time()
            status = 200
        except Refused as refused:
            status = refused.status
            await self._refuse(refused)
        except Gone:
            pass
        except Exception:
            status = 500
            traceback.print_exc(file=sys.stderr)
            await self._refuse(Refused(500, "the server failed on this request; its log has the reason"))
        finally:
            self.service.metrics.ended(status, time.perf_counter() - began)

    @contextlib.contextmanager
    def _inside(self) -> Iterator[None]:
        self.service.enter()
        try:
            yield
        finally:
            self.service.leave()

    async def _in_time(self) -> None:
        seconds = self.service.limits.seconds
        try:
            async with asyncio.timeout(seconds):
                await self._answer()
        except TimeoutError:
            raise Refused(408, f"no whole answer within {seconds:g} s; ask for a shorter one, or later") from None

    async def _answer(self) -> None:
        body = await read_json(Headers(scope=self.scope), self.receive, self.service.limits.body_bytes)
        with Share(self.service.room) as share:
            parsed = await self.service.parse(body, share)
            del body
            async with self.service.answering(parsed) as updates:
                await self._unless_gone(self._reply(parsed.request, parsed.prepared.warnings, updates))

    async def _reply(self, request: ChatRequest, warnings: Sequence[str], updates: Updates) -> None:
        update = await updates.take()  # a request that fails before its first piece has the status of its failure
        if request.stream:
            update = await self._stream(request, warnings, update, updates)
        assert isinstance(update, Answer)
        self.service.metrics.answered(update.prompt_tokens, update.tokens)
        if not request.stream:
            await replies.completion(request.model, update, warnings)(self.scope, self.receive, self.send)

    async def _stream(
        self, request: ChatRequest, warnings: Sequence[str], update: str | Answer, updates: Updates
    ) -> Answer:
        self._begun = True
        await self.send(replies.STREAM)
        chunk = replies.chunks(request.model)
        await self.send(replies.event(chunk({"role": "assistant", "content": ""}) | replies.warned(warnings)))
        while isinstance(update, str):
            await self.send(replies.event(chunk({"content": update})))
            update = await updates.take()
        await self.send(replies.event(chunk({}, update)))
        if request.stream_options is not None and request.stream_options.include_usage:
            await self.send(replies.event(chunk(None, update)))
        await self.send(replies.DONE)
        return update

    async def _refuse(self, refused: Refused) -> None:
        if self._begun:  # its status went out with the first piece
            await self.send(replies.event(refused.body(), last=True))
            return
        await replies.refusal(refused)(self.scope, self.receive, self.send)

    async def _unless_gone(self, work: Awaitable[T]) -> T:
        """Return the result of a coroutine, which is cancelled if the client disconnects first."""
        doing, gone = asyncio.ensure_future(work), asyncio.ensure_future(self._gone())
        try:
            await asyncio.wait({doing, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                raise Gone
            return doing.result()
        finally:
            doing.cancel()
            gone.cancel()
            await asyncio.gather(doing, gone, return_exceptions=True)

    async def _gone(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass
