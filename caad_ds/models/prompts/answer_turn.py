"""The answer turn of a chat template: what stands before and after an answer, and the tokens that end it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from caad_ds.models.prompts.audio_spans import render
from caad_ds.models.prompts.control_tokens import control_tokens
from caad_ds.models.whisper_qformer.prompt_ids import PIECES, WHOLE
from caad_ds.utils.errors import UserError

FORM = "caad_prompt"  # key in tokenizer_config.json: how a record is tokenised
CONTENT, ANSWER = "qzxv", "vxzq"  # dummy texts, to find what the template itself writes


@dataclass(frozen=True)
class Turn:
    """A template's answer turn: whitespace before the answer, the token after it, and whether it is trimmed."""

    lead: str
    end: int
    trims: bool


def answer_turn(tokenizer: Any) -> Turn:
    """Find the template's answer turn from a short chat; a bare answer and `eos_token` if it refuses that."""
    plain = Turn("", tokenizer.eos_token_id, False)
    question = [{"role": "user", "content": CONTENT}]
    try:
        prompt = render(tokenizer, question)
        # With tabs around it, which no template writes: a space after the answer may be the template's (Llama 2).
        whole = render(tokenizer, [*question, {"role": "assistant", "content": f"\t{ANSWER}\t"}], prompt=False)
    except UserError:
        return plain
    before, separator, after = whole.rpartition(ANSWER)
    if not separator or form_of(tokenizer) == PIECES:
        return plain
    trims = not after.startswith("\t")
    before, after = (before, after) if trims else (before[:-1], after[1:])
    lead = before.removeprefix(prompt) if before.startswith(prompt) else ""
    ends = {token: number for number, token in control_tokens(tokenizer).items() if after.lstrip().startswith(token)}
    end = ends[max(ends, key=len)] if ends else tokenizer.eos_token_id
    return Turn("" if lead.strip() else lead, end, trims)


def end_tokens(tokenizer: Any, named: int | Sequence[int] | None) -> list[int]:
    """Return the tokens that end an answer: the tokenizer's, the chat template's, and `named`, the `eos_token_id` of
    the model's generation config."""
    own = [named] if named is None or isinstance(named, int) else named
    return sorted({tokenizer.eos_token_id, answer_turn(tokenizer).end, *own} - {None})


def form_of(tokenizer: Any) -> str:
    """Return how a record is tokenised, by the tokenizer's settings; `WHOLE` by default."""
    return tokenizer.init_kwargs.get(FORM, WHOLE)
