"""Find a tokenizer's control tokens, and refuse texts that contain them."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from caad_ds.data.audio_markers import AUDIO, END_AUDIO, MARKERS, START_AUDIO
from caad_ds.utils.errors import UserError

SPAN = re.compile(f"(?:{re.escape(START_AUDIO)})?{re.escape(AUDIO)}(?:{re.escape(END_AUDIO)})?")
# How templates mark turns in plain text: <|user|>, [INST], <<SYS>>, and labels before a text: "### Response:", "USER:".
BRACKETED = re.compile(r"<<?[^<>\s]{1,60}>>?|\[/?[A-Za-z_]{2,40}\]")
LABEL = re.compile(r"(#{2,} ?[\w ]{1,40}:?|\b[A-Z][A-Za-z]*:)\s*$")
# Control tokens of many models, for texts that a server tokenises.
WIDELY_CONTROL = re.compile(
    r"<\|[^|<>\s]{1,60}\|>|</?s>|<(?:bos|eos|pad|unk)>|</?think(?:ing)?>|<(?:start|end)_of_turn>|<</?SYS>>|"
    r"\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]"
)
USER_DEFINED = 4  # type of a piece in SentencePiece's model


def control_tokens(tokenizer: Any) -> dict[int, str]:
    """Return the tokens that texts must not contain, by id.

    These are the special tokens, added tokens that look like markup and SentencePiece's user-defined symbols. The
    unknown token is left out, since any text may become it, and so are added tokens of whitespace or words.
    """
    tokens = {number: str(token) for number, token in tokenizer.added_tokens_decoder.items()}
    special = set(tokenizer.all_special_ids)
    special |= {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    tokens |= {number: str(tokenizer.convert_ids_to_tokens(number)) for number in special}
    tokens |= _user_defined(tokenizer)
    named = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token}
    if tokenizer.unk_token not in named:
        tokens.pop(tokenizer.unk_token_id, None)
        special.discard(tokenizer.unk_token_id)
    return {
        number: token
        for number, token in tokens.items()
        if token.strip(" \t\r\n▁") and (number in special or re.search(r"[<>\[\]|{}]", token))
    }


def _user_defined(tokenizer: Any) -> dict[int, str]:
    """Return user-defined symbols of a SentencePiece model that is used without the `tokenizers` library."""
    model = getattr(tokenizer, "sp_model", None)
    if model is None:
        return {}
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto  # type: ignore[attr-defined]  # the class is created on import
    pieces = proto.FromString(model.serialized_model_proto()).pieces
    return {tokenizer.convert_tokens_to_ids(p.piece): p.piece for p in pieces if p.type == USER_DEFINED}


def plain_markers(pieces: Iterable[str]) -> list[str]:
    """Return a template's plain-text markers of turns; `pieces` are its texts between the contents."""
    markers: dict[str, None] = {}
    for piece in pieces:
        markers |= dict.fromkeys(BRACKETED.findall(piece))
        if label := LABEL.search(piece):
            markers[label[1]] = None
    return [marker for marker in markers if marker not in MARKERS]


def check_texts(texts: Mapping[str, str], markers: Iterable[str]) -> None:
    """Refuse texts that contain a marker, or that no tokenizer can read; their keys are used in the message."""
    for where, text in texts.items():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UserError(f"its {where} holds half a surrogate pair, which is no text; correct it") from None
        if held := next((marker for marker in (*MARKERS, *markers) if marker in text), None):
            raise UserError(f"its {where} holds {held!r}, which marks a part of the prompt; take it out of the text")


def check_markup(texts: Iterable[str]) -> None:
    """Refuse texts with control tokens of many models, if the tokenizer is unknown."""
    for text in texts:
        if match := WIDELY_CONTROL.search(text):
            raise UserError(f"its text holds {match[0]!r}, which the server may read as a control token; remove it")
