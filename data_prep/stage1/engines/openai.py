"""Any server with OpenAI's chat interface (extra `openai`), such as vLLM's, SGLang's or `transformers serve`."""

import asyncio
import os
from collections.abc import Container, Iterable, Iterator
from itertools import chain
from typing import Any

from caad_ds.models.prompts.control_tokens import check_markup
from caad_ds.utils.errors import UserError
from data_prep.stage1.engines import Answer
from data_prep.stage1.engines.settings import Asking

KEY_VARIABLE = "OPENAI_API_KEY"
UNUSABLE = {400, 413, 422}  # what a server says of one request and not of itself


class OpenAIEngine:
    """Answers with at most `concurrency` requests under way, which an interrupt ends at once.

    Rate limits (with their Retry-After), timeouts, lost connections and statuses from 500 on are tried again `retries`
    times, after 0.5 s, 1 s, 2 s, ... 8 s. UserError, once what is under way has been answered, if the server still does
    not answer, or refuses everybody (401, 404, ...). Whether a seed gives the same text again is the server's matter.
    """

    def __init__(
        self,
        model: str,
        asking: Asking,
        *,
        base_url: str,
        key_variable: str = KEY_VARIABLE,
        concurrency: int = 8,
        retries: int = 8,
        timeout: float = 120.0,
    ):
        if not base_url.startswith(("http://", "https://")):
            raise UserError(f"--base-url {base_url!r}: it must be a URL, such as http://127.0.0.1:8000/v1")
        try:
            import openai
        except ImportError as error:
            raise UserError("--engine openai: no package `openai` here; pip install 'caad-ds[openai]'") from error
        self._openai, self.model, self.asking = openai, model, asking
        self.base_url, self.concurrency = base_url, concurrency
        self._key = os.environ.get(key_variable, "")
        if not self._key and key_variable != KEY_VARIABLE:
            raise UserError(f"--api-key-env {key_variable}: there is no such environment variable; export it")
        # The package insists on a key; servers of one's own mostly do not.
        self._client = openai.AsyncOpenAI(
            base_url=base_url, api_key=self._key or "none", max_retries=retries, timeout=timeout
        )

    def answers(self, blocks: Iterable[list[dict]], done: Container[str]) -> Iterator[Answer]:
        missing = (record for record in chain.from_iterable(blocks) if record["id"] not in done)
        running: set[asyncio.Task[Answer]] = set()
        # A loop and no threads: Python waits for its threads before it ends, and a request may take minutes.
        with asyncio.Runner() as runner:
            try:
                for record in missing:
                    running.add(runner.get_loop().create_task(self._answer(record)))
                    if len(running) == self.concurrency:
                        finished, running = runner.run(asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED))
                        if any(task.exception() for task in finished):
                            running |= finished
                            break
                        yield from (task.result() for task in finished)
                if running:
                    runner.run(asyncio.wait(running))
                # Those that were answered come first: an error ends the run.
                for task in sorted(running, key=lambda task: task.exception() is not None):
                    yield task.result()
            finally:
                runner.run(self._end(running))

    async def _end(self, running: Iterable[asyncio.Task[Answer]]) -> None:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._client.close()

    async def _answer(self, record: dict) -> Answer:
        try:
            completion = await self._client.chat.completions.create(**self._request(record))
        except UserError as error:
            return Answer(record["id"], reason=f"record: {error}")
        except self._openai.APIStatusError as error:
            if error.status_code in UNUSABLE:
                return Answer(record["id"], reason=f"server: it refuses this record, {self._told(error)}")
            raise UserError(f"{self._where(record)}: {self._told(error)}; mend that and run this again") from error
        except self._openai.APIError as error:
            raise UserError(f"{self._where(record)}: {self._told(error)} Run this again when it answers") from error
        except ValueError as error:
            raise UserError(f"{self._where(record)}: the server's answer is not JSON ({error}); is it one?") from error
        return self._judged(record["id"], completion)

    def _request(self, record: dict) -> dict[str, Any]:
        messages = self.asking.messages(record)
        check_markup(message["content"] for message in messages)
        # `max_tokens` is the older name of `max_completion_tokens`, and the one that all servers know.
        request: dict[str, Any] = {"model": self.model, "messages": messages}
        request |= {"max_tokens": self.asking.max_new_tokens, "temperature": self.asking.temperature}
        if self.asking.temperature:
            request |= {"top_p": self.asking.top_p, "seed": self.asking.seed_of(record["id"])}
        if self.asking.switches:  # as vLLM's and SGLang's servers take them
            request["extra_body"] = {"chat_template_kwargs": dict(self.asking.switches)}
        return request

    def _judged(self, identity: str, completion: Any) -> Answer:
        if not getattr(completion, "choices", None):
            raise UserError(f"--base-url {self.base_url}: what came is no chat completion; does the path end in /v1?")
        choice = completion.choices[0]
        text = (choice.message.content or "").strip()
        if choice.finish_reason == "length":
            return Answer(identity, text, self.asking.truncated)
        if choice.finish_reason == "content_filter" or choice.message.refusal:
            return Answer(identity, text, f"refusal: {choice.message.refusal or 'the content filter of the server'}")
        return Answer(identity, text)

    def _where(self, record: dict) -> str:
        return f"{self.base_url}, model {self.model}, record {record['id']}"

    def _told(self, error: Exception) -> str:
        """The error in one line, without the key, which a server may repeat."""
        line = " ".join(str(error).split())
        return (line.replace(self._key, "***") if self._key else line)[:300]
