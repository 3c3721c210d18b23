"""Responses as OpenAI's objects."""

import json
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from fastapi.responses import JSONResponse

from caad_ds.generation.model import Model
from caad_ds.models.reader import NO_TRANSCRIPT
from caad_ds.serving.server.batching import Answer
from caad_ds.serving.server.refusals import Refused

STREAM = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
DONE = {"type": "http.response.body", "body": b"data: [DONE]\n\n"}


def refusal(refused: Refused) -> JSONResponse:
    """Return the response to a refused request, with Retry-After if it may be sent again later."""
    again = {"retry-after": "1"} if refused.status in (429, 503) else None
    return JSONResponse(refused.body(), refused.status, headers=again)


def model(name: str, created: int, served: Model) -> dict[str, Any]:
    """Return the object of a model, with its audio limits."""
    reader = served.reader
    audio = {"longest_seconds": reader.longest_seconds, "most_clips": reader.most_audios}
    transcripts = reader.transcript != NO_TRANSCRIPT
    about = {"family": reader.family, **audio, "transcripts": transcripts}
    return {"id": name, "object": "model", "created": created, "owned_by": "caad-ds", "caad": about}


def warned(warnings: Sequence[str]) -> dict[str, Any]:
    """Return our own field `caad` beside OpenAI's, with the warnings of a request that is answered."""
    return {"caad": {"warnings": list(warnings)}} if warnings else {}


def completion(name: str, answer: Answer, warnings: Sequence[str]) -> JSONResponse:
    """Return the object of a complete answer."""
    message = {"role": "assistant", "content": answer.text, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": _reason(answer), "logprobs": None}
    content = {**_head(name, "chat.completion"), "choices": [choice], "usage": _usage(answer)}
    return JSONResponse(content | warned(warnings))


def chunks(name: str) -> Callable[..., dict[str, Any]]:
    """Return a function that makes a stream's chunks: of new text, at its end of the answer; of None, usage only."""
    head = _head(name, "chat.completion.chunk")

    def chunk(delta: dict[str, str] | None, answer: Answer | None = None) -> dict[str, Any]:
        if delta is None and answer is not None:
            return {**head, "choices": [], "usage": _usage(answer)}
        reason = None if answer is None else _reason(answer)
        return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}]}

    return chunk


def event(content: dict[str, Any], last: bool = False) -> dict[str, Any]:
    """Return the ASGI message of a server-sent event; `last` ends the stream."""
    line = f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
    return {"type": "http.response.body", "body": line.encode(), "more_body": not last}


def _head(name: str, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": name}


def _reason(answer: Answer) -> str:
    return "stop" if answer.stopped else "length"


def _usage(answer: Answer) -> dict[str, int]:
    prompt, tokens = answer.prompt_tokens, answer.tokens
    return {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}
