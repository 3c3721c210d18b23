"""What engines that run a model in this process share: batches formed inside a block, answers read off tokens."""

from abc import ABC, abstractmethod
from collections.abc import Container, Iterable, Iterator
from typing import Any

from jinja2 import TemplateError

from caad_ds.errors import UserError
from data_prep.engines import Answer
from data_prep.engines.asking import Asking

WINDOW = 16  # batches per block

Prompt = tuple[dict, list[int]]  # a record and the tokens that it is asked by


class LocalEngine(ABC):
    """Answers in batches, the records of a block sorted by length so that little is padded.

    In float32 an answer is the same in any batch; in bfloat16 another batch rounds differently, and may word it
    differently.
    """

    asking: Asking
    batch_size: int
    tokenizer: Any
    ends: set[int]  # the tokens that end an answer
    positions: int | None  # the most tokens of prompt and answer together, where the model says so

    @abstractmethod
    def _ids(self, record: dict) -> list[int]:
        """The tokens of the record's prompt; UserError or TemplateError if it cannot be asked about."""

    @abstractmethod
    def _generate(self, prompts: list[Prompt]) -> Iterator[Answer]:
        """The answers to one batch."""

    def answers(self, blocks: Iterable[list[dict]], done: Container[str]) -> Iterator[Answer]:
        for block in blocks:
            if all(record["id"] in done for record in block):
                continue
            prompts = []
            for record in block:
                prompt = self._prompt(record)
                if not isinstance(prompt, Answer):
                    prompts.append(prompt)
                elif prompt.id not in done:
                    yield prompt
            prompts.sort(key=lambda prompt: len(prompt[1]))
            for first in range(0, len(prompts), self.batch_size):
                batch = prompts[first : first + self.batch_size]
                if any(record["id"] not in done for record, _ in batch):
                    yield from (answer for answer in self._generate(batch) if answer.id not in done)

    def _prompt(self, record: dict) -> Prompt | Answer:
        try:
            ids = self._ids(record)
        except (UserError, TemplateError) as error:
            return Answer(record["id"], reason=f"record: {error}")
        if self.positions and len(ids) + self.asking.max_new_tokens > self.positions:
            reason = f"record: its prompt of {len(ids)} tokens leaves no room in {self.positions}"
            return Answer(record["id"], reason=reason)
        return record, ids

    def _answer(self, record: dict, ids: list[int]) -> Answer:
        end = next((position for position, token in enumerate(ids) if token in self.ends), None)
        if end is None:
            return Answer(record["id"], reason=self.asking.truncated)
        return Answer(record["id"], self.tokenizer.decode(ids[:end], skip_special_tokens=True).strip())


def chat_tokenizer(model: str) -> Any:
    """The tokenizer of an instruct model, which pads on the left; UserError if there is none, or no template."""
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(model, padding_side="left")
    except (OSError, ValueError) as error:
        raise UserError(f"--model {model}: no tokenizer there that loads: {str(error).splitlines()[0]}") from error
    if not tokenizer.chat_template:
        raise UserError(f"--model {model}: its tokenizer has no chat template; take an instruct model")
    return tokenizer


def chat_ids(tokenizer: Any, messages: list[dict]) -> list[int]:
    """The tokens that ask for an answer to a chat; TemplateError if the chat template refuses it."""
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def end_ids(tokenizer: Any, eos: int | list[int] | None) -> set[int]:
    """The tokens that end an answer, by the tokenizer and by the model's generation config (`eos`)."""
    return {tokenizer.eos_token_id, *(eos if isinstance(eos, list) else [eos])} - {None}


def default_dtype(device: str) -> str:
    """The weights' dtype where none is asked for: float32 on a CPU, else bfloat16; UserError for no such device."""
    from caad_ds.device import pick_device

    return "float32" if pick_device(device).type == "cpu" else "bfloat16"
