"""Any server with OpenAI's chat interface (extra `openai`), such as vLLM's, SGLang's or `transformers serve`."""

from collections.abc import Container, Iterable, Iterator
from itertools import chain
from typing import Any

from caad_ds.data.record import Record
from caad_ds.generation.chat_client import (
    ChatClient,
    ChatError,
    NoCompletion,
    Reply,
    RequestRefused,
    check_installed,
    is_url,
    key_of,
)
from caad_ds.models.prompts.control_tokens import check_markup
from caad_ds.utils.errors import UserError
from data_prep.stage1.engines import Answer, PreparedEngine
from data_prep.stage1.engines.engine_options import KEY_VARIABLE, EngineOptions, Server
from data_prep.stage1.engines.generation_settings import GenerationSettings


def prepare(options: EngineOptions) -> PreparedEngine:
    """Prepare the model of that name on the server; the server is not contacted."""
    model, generation = options.needed_model("openai"), options.generation
    settings = {"model": model, **generation.content()}
    return PreparedEngine(settings, lambda: OpenAIEngine(model, generation, options.server))


class OpenAIEngine:
    """Sends several requests concurrently and retries failed ones (see `ChatClient`).

    UserError, after the pending requests are done, if the server still fails or refuses every request (401, 404, ...).
    Whether a seed makes answers reproducible depends on the server.
    """

    def __init__(self, model: str, generation: GenerationSettings, server: Server):
        if not is_url(server.base_url):
            shown = "" if "@" in server.base_url else f" {server.base_url!r}"  # it may hold a password before the @
            raise UserError(f"--base-url{shown}: it must be a URL, such as http://127.0.0.1:8000/v1")
        check_installed("--engine openai")
        key = key_of(server.key_variable, "--api-key-env")
        if not key and server.key_variable != KEY_VARIABLE:
            raise UserError(f"--api-key-env {server.key_variable}: there is no such environment variable; export it")
        self.generation, self.concurrency = generation, server.concurrency
        self._client = ChatClient(model, server.base_url, key, retries=server.retries, timeout=server.timeout)

    def answers(self, blocks: Iterable[list[Record]], done: Container[str]) -> Iterator[Answer]:
        missing = (record for record in chain.from_iterable(blocks) if record["id"] not in done)
        return self._client.each(self._answer, missing, self.concurrency)

    async def _answer(self, record: Record) -> Answer:
        identity, client = record["id"], self._client
        try:
            request = self._request(record)
        except UserError as error:
            return Answer(identity, reason=f"record: {error}")
        try:
            return self._judged(identity, await client.reply(**request))
        except RequestRefused as error:
            return Answer(identity, reason=f"server: it refuses this record, {error}")
        except NoCompletion as error:
            raise UserError(f"--base-url {client.place}: {error}; does the path end in /v1?") from error
        except ChatError as error:
            where = f"{client.place}, model {client.model}, record {identity}"
            raise UserError(f"{where}: {error}; fix that, or wait until it answers, and run this again") from error

    def _request(self, record: Record) -> dict[str, Any]:
        messages = self.generation.messages(record)
        check_markup(message["content"] for message in messages)
        # `max_tokens` is the older name of `max_completion_tokens`; all servers accept it.
        request: dict[str, Any] = {"messages": messages, "max_tokens": self.generation.max_new_tokens}
        request["temperature"] = self.generation.temperature
        if self.generation.temperature:
            request |= {"top_p": self.generation.top_p, "seed": self.generation.seed_of(record["id"])}
        if self.generation.switches:  # as vLLM's and SGLang's servers take them
            request["extra_body"] = {"chat_template_kwargs": dict(self.generation.switches)}
        return request

    def _judged(self, identity: str, reply: Reply) -> Answer:
        text = reply.text.strip()
        if reply.finish_reason == "length":
            return Answer(identity, text, self.generation.truncated)
        if reply.finish_reason == "content_filter" or reply.refusal:
            return Answer(identity, text, f"refusal: {reply.refusal or 'the content filter of the server'}")
        return Answer(identity, text)
