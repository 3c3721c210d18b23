"""Tokenise a prompt's text with audio markers."""

from typing import Any

WHOLE, PIECES = "whole", "pieces"


def prompt_ids(tokenizer: Any, text: str, mark: str, form: str) -> list[int]:
    """Return the ids of a text, with one id for each `mark`, which is a special token of the tokenizer.

    `form` is "whole", or "pieces" for models that were trained with the texts between audios tokenised separately: a
    SentencePiece tokenizer that puts a space before a text then does so in each piece.
    """

    def tokens(piece: str) -> list[int]:
        return tokenizer(piece, add_special_tokens=False)["input_ids"]

    if form == WHOLE:
        return tokens(text)
    first, *rest = map(tokens, text.split(mark))
    audio = tokenizer.convert_tokens_to_ids(mark)
    return first + [number for piece in rest for number in (audio, *piece)]


def spread(ids: list[int], audio: int, count: int) -> list[int]:
    """Return the ids with each audio marker repeated `count` times."""
    return [copy for token in ids for copy in [token] * (count if token == audio else 1)]
