"""An answer as it is written: pieces of text that join to the whole."""

import re
from collections.abc import Callable, Generator
from itertools import takewhile
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

from torch import Tensor
from transformers.generation.streamers import BaseStreamer

CONTRACTION = len("n't")  # the longest before which decoding takes a blank away


class Pieces(BaseStreamer):
    """Hands the text of a batch's first row to `give`, a piece at a time, as `generate` writes its tokens.

    What later tokens may change is held back: the last token, blanks at the end, characters of which bytes are missing,
    and a blank that a contraction may follow, which decoding takes away ("do n't").
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
        sure = _settled(text[: len([*takewhile(lambda pair: pair[0] == pair[1], zip(self._last, text))])])
        self._last = text
        if sure.startswith(self._given):
            self._give(sure)

    def end(self) -> None:
        """Wait for `finish`: only `generate`'s caller has the answer."""

    def finish(self, answer: str) -> None:
        """Give what is left of the answer."""
        if not answer.startswith(self._given):
            raise RuntimeError(f"the answer {answer!r} does not begin with what was streamed: {self._given!r}")
        self._give(answer)

    def _give(self, text: str) -> None:
        if piece := text[len(self._given) :]:
            self.give(piece)
            self._given = text


def _settled(text: str) -> str:
    """The beginning of a text to which no token may do anything more."""
    while text != (shorter := text.rstrip().rstrip("\ufffd")):
        text = shorter
    *before, last = re.split(r"(\s+)", text)
    return "".join(before).rstrip() if before and len(last) < CONTRACTION else text


class Stopped(Exception):
    """Ends `generate` where nobody reads its answer any more."""


def streamed(decode: Callable[[BaseStreamer], str], tokenizer: Any) -> Generator[str, None, None]:
    """Yield the pieces of the answer that `decode` returns, which runs in a thread of its own.

    An exception of `decode` is raised here, and the thread has ended when this generator has, also where the caller
    leaves it before its end: it is stopped at its next token.
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
