"""Stream an answer while it is generated, as pieces of text that join to the whole."""

import re
from collections.abc import Callable, Generator
from itertools import takewhile
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

from torch import Tensor
from transformers.generation.streamers import BaseStreamer

CONTRACTION = len("n't")  # the longest suffix before which decoding removes a blank


class Pieces(BaseStreamer):
    """Pass the text of a batch's first row to `give`, a piece at a time, as `generate` produces tokens.

    Text that later tokens may change is held back: the last token, trailing blanks, incomplete characters, and a blank
    that decoding removes if a contraction follows ("do n't").
    """

    def __init__(self, tokenizer: Any, give: Callable[[str], object]):
        self.tokenizer, self.give = tokenizer, give
        self.stopped = Event()
        self._tokens: list[int] = []
        self._last = self._given = ""

    def put(self, value: Tensor) -> None:
        """Take the tokens [paths] of a step; the prompt, which comes first, is a matrix."""
        if self.stopped.is_set():
            raise Stopped
        if value.dim() > 1:
            return
        self._tokens.append(int(value[0]))
        text = self.tokenizer.decode(self._tokens, skip_special_tokens=True).strip()
        settled = _settled(text[: len([*takewhile(lambda pair: pair[0] == pair[1], zip(self._last, text))])])
        self._last = text
        if settled.startswith(self._given):
            self._give(settled)

    def end(self) -> None:
        """Do nothing: `finish` gives the rest, once the caller of `generate` has the answer."""

    def finish(self, answer: str) -> None:
        """Give the rest of the answer."""
        if not answer.startswith(self._given):
            raise RuntimeError(f"the answer {answer!r} does not begin with what was streamed: {self._given!r}")
        self._give(answer)

    def _give(self, text: str) -> None:
        if piece := text[len(self._given) :]:
            self.give(piece)
            self._given = text


def _settled(text: str) -> str:
    """Return the beginning of a text that no later token can change."""
    while text != (shorter := text.rstrip().rstrip("\ufffd")):
        text = shorter
    *before, last = re.split(r"(\s+)", text)
    return "".join(before).rstrip() if before and len(last) < CONTRACTION else text


class Stopped(Exception):
    """Raised to end `generate` when its answer is no longer read."""


def streamed(decode: Callable[[BaseStreamer], str], tokenizer: Any) -> Generator[str, None, None]:
    """Yield the pieces of the answer of `decode`, which runs in its own thread.

    Exceptions of `decode` are raised here. The thread ends with this generator; if the caller closes it early, decoding
    stops at its next token.
    """
    queue: SimpleQueue[str | BaseException | None] = SimpleQueue()
    pieces = Pieces(tokenizer, queue.put)

    def work() -> None:
        try:
            pieces.finish(decode(pieces))
            queue.put(None)
        except BaseException as error:
            queue.put(error)

    thread = Thread(target=work, name="caad-ds answer", daemon=True)
    thread.start()
    try:
        while (piece := queue.get()) is not None:
            if isinstance(piece, BaseException):
                raise piece
            yield piece
    finally:
        pieces.stopped.set()
        thread.join()
