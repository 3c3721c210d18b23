"""Chat completions of an OpenAI-compatible server (extra `openai`): bounded concurrency, errors without secrets."""

import asyncio
import json
import os
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import urlsplit

from caad_ds.tracking.secrets import HIDDEN, hide_secrets
from caad_ds.utils.errors import UserError

UNUSABLE = {400, 413, 422}  # statuses that concern one request, not the server
NO_KEY = "none"  # the package requires a key; self-hosted servers mostly do not
Item = TypeVar("Item")
Found = TypeVar("Found")


class ChatError(Exception):
    """The server does not answer, or refuses all requests; one line, without the key or the credentials of a URL."""


class RequestRefused(ChatError):
    """The server refuses this one request."""


class NoCompletion(ChatError):
    """The reply is no chat completion: some servers answer 200 with a page, or with their own error format."""


@dataclass(frozen=True)
class Reply:
    """The first choice of a chat completion."""

    text: str
    finish_reason: str | None
    refusal: str | None


class ChatClient:
    """A model behind an endpoint, for one call of `each`.

    Rate limits (honouring Retry-After), timeouts, lost connections and statuses >= 500 are retried `retries` times,
    after 0.5 s, 1 s, 2 s, ... 8 s. `base_url` and `key` must have passed `is_url` and `key_of`.
    """

    def __init__(self, model: str, base_url: str, key: str, *, retries: int = 2, timeout: float = 120.0):
        import openai

        self.model, self.place, self._key, self._openai = model, hide_secrets(base_url), key, openai
        self._client = openai.AsyncOpenAI(
            base_url=base_url, api_key=key or NO_KEY, max_retries=retries, timeout=timeout
        )

    async def reply(self, **request: Any) -> Reply:
        """Return the reply to a request with the parameters of `chat.completions.create`; raises ChatError."""
        openai = self._openai
        try:
            completion = await self._client.chat.completions.create(model=self.model, **request)
        except openai.APIStatusError as error:
            kind = RequestRefused if error.status_code in UNUSABLE else ChatError
            raise kind(self._message(error)) from None  # the client's own error holds the URL
        except openai.OpenAIError as error:
            raise ChatError(self._message(error)) from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:  # declared as JSON, but invalid
            raise NoCompletion(f"the server's answer is not JSON ({error})") from None
        return _first_choice(completion)

    def each(
        self, answer: Callable[[Item], Coroutine[Any, Any, Found]], items: Iterable[Item], concurrency: int
    ) -> Iterator[Found]:
        """Yield the result of `answer`, which awaits `reply`, for each item as it completes, `concurrency` at once.

        After a failure the requests in flight are still yielded, then it is raised. An interrupt cancels all at once.
        """
        left = iter(items)
        running: set[asyncio.Task[Found]] = set()
        failure: BaseException | None = None
        # An event loop, not threads: Python joins its threads at exit, and a request may take minutes.
        with asyncio.Runner() as runner:
            start = runner.get_loop().create_task
            try:
                while True:
                    if failure is None:
                        running |= {start(answer(item)) for item in islice(left, concurrency - len(running))}
                    if not running:
                        break
                    finished, running = runner.run(asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED))
                    failure = failure or next(filter(None, [task.exception() for task in finished]), None)
                    yield from (task.result() for task in finished if task.exception() is None)
            finally:
                runner.run(self._end(running))
        if failure is not None:
            raise failure

    async def _end(self, running: Iterable[asyncio.Task]) -> None:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._client.close()

    def _message(self, error: Exception) -> str:
        """Return an error as one short line, without the key, which a server may repeat."""
        line = " ".join(str(error).split()).rstrip(".")
        return hide_secrets(line.replace(self._key, HIDDEN) if self._key else line)[:300]


def key_of(variable: str, option: str) -> str:
    """Return the key in an environment variable, "" if unset; raises UserError if it cannot be a key."""
    key = os.environ.get(variable, "")
    if not key.isascii() or not key.isprintable() or key != key.strip():  # HTTP drops blanks at the ends of a header
        raise UserError(
            f"{option} {variable}: holds what no key has, such as a line break or a blank at an end; export it again"
        )
    return key


def is_url(text: str) -> bool:
    """Return whether a client can use the URL. Do not print an invalid one: any part of it may be secret."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def check_installed(what: str) -> None:
    """Raise UserError, beginning with `what`, if the package `openai` is not installed."""
    try:
        import openai  # noqa: F401
    except ImportError as error:
        raise UserError(f"{what} needs the package openai; pip install 'caad-ds[openai]'") from error


def _first_choice(completion: object) -> Reply:
    choices = getattr(completion, "choices", None)
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = getattr(choice, "message", None)
    if message is None:
        raise NoCompletion("what came is no chat completion")
    content, refusal = getattr(message, "content", None), getattr(message, "refusal", None)
    return Reply(content or "", getattr(choice, "finish_reason", None), refusal)
