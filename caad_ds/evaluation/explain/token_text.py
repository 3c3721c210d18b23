"""Tokens as text."""

from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

FAULTY = "\N{REPLACEMENT CHARACTER}"


class Tokens:
    """Convert token ids to readable text: no byte-level BPE alphabet; leading spaces are kept."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.special = set(tokenizer.all_special_ids)
        self.bytes = {glyph: byte for byte, glyph in bytes_to_unicode().items()}

    def __call__(self, token: int) -> str:
        """Return the token's text; `<0xE2>` for each byte of an incomplete character."""
        piece = self.tokenizer.convert_ids_to_tokens(token)
        if token in self.special or piece is None:  # padded vocabularies have ids without a token
            return piece or f"<{token}>"
        # The second of two tokens is decoded as in the middle of a text, which keeps its leading space.
        once, twice = (self.tokenizer.decode([token] * n, clean_up_tokenization_spaces=False) for n in (1, 2))
        text = twice[len(once) :]
        if FAULTY not in text:
            return text
        if all(glyph in self.bytes for glyph in piece):
            return "".join(f"<0x{self.bytes[glyph]:02X}>" for glyph in piece)
        return piece
