"""Shared by engines that run a model in this process: batches within a block, decoding of answers."""

from abc import ABC, abstractmethod
from collections.abc import Container, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from caad_ds.data.record import Message, PromptRecord, Record
from caad_ds.utils.errors import UserError, first_line
from caad_ds.utils.progress import waiting
from data_prep.stage1.engines import Answer
from data_prep.stage1.engines.generation_settings import GenerationSettings

if TYPE_CHECKING:  # it imports PyTorch
    from caad_ds.models.prompts.prompt_encoder import PromptEncoder

WINDOW = 16  # batches per block
ANY: Message = {"role": "user", "content": "?"}  # a chat that every template takes

Prompt = tuple[Record, list[int]]  # a record and the tokens of its prompt


class LocalEngine(ABC):
    """Answers in batches; the records of a block are sorted by length to reduce padding.

    In float32 a greedy answer is the same in any batch, a sampled one nearly always. In bfloat16, rounding depends on
    the batch and may change both.
    """

    generation: GenerationSettings
    batch_size: int
    prompt_encoder: "PromptEncoder"
    ends: list[int]  # the tokens that end an answer
    positions: int | None  # limit on prompt and answer tokens together, if the model has one

    @property
    def tokenizer(self) -> Any:
        return self.prompt_encoder.tokenizer

    def _prompt_record(self, record: Record) -> PromptRecord:
        """Return the prompt as a record; UserError if the record cannot be asked about."""
        return {"id": record["id"], "messages": self.generation.messages(record), "audios": []}

    def _ids(self, prompt_record: PromptRecord) -> list[int]:
        """Tokenize the prompt; UserError if the chat template cannot render it."""
        return self.prompt_encoder.prompt(prompt_record)[0]

    @abstractmethod
    def _generate(self, prompts: list[Prompt]) -> Iterator[Answer]:
        """Yield the answers to one batch."""

    def answers(self, blocks: Iterable[list[Record]], done: Container[str]) -> Iterator[Answer]:
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

    def _prompt(self, record: Record) -> Prompt | Answer:
        try:
            ids = self._ids(self._prompt_record(record))
        except UserError as error:
            return Answer(record["id"], reason=f"record: {_reason(error, record['id'])}")
        if self.positions and len(ids) + self.generation.max_new_tokens > self.positions:
            reason = f"record: its prompt of {len(ids)} tokens leaves no room in {self.positions}"
            return Answer(record["id"], reason=reason)
        return record, ids

    def _answer(self, identity: str, ids: list[int]) -> Answer:
        end = next((position for position, token in enumerate(ids) if token in self.ends), None)
        text = self.tokenizer.decode(ids[:end], skip_special_tokens=True).strip()
        if end is None:
            return Answer(identity, text, self.generation.truncated)
        try:
            self.prompt_encoder.encode({"id": identity, "messages": [ANY], "audios": [], "response": text})
        except UserError as error:
            return Answer(identity, text, f"markup: {_reason(error, identity)}")
        return Answer(identity, text)


def _reason(error: UserError, identity: str) -> str:
    return str(error).removeprefix(f"record {identity}: ")


def chat_prompt_encoder(model: str, generation: GenerationSettings) -> "PromptEncoder":
    """Load the prompt encoder of an instruct model; UserError without a tokenizer or chat template.

    The tokenizer pads on the left; the chat template is frozen.
    """
    from transformers import AutoTokenizer

    from caad_ds.models.prompts.chat_template import TemplateSettings, freeze_template
    from caad_ds.models.prompts.prompt_encoder import PromptEncoder

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(model, padding_side="left", trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:  # a format may need a package that is not installed
        reason = first_line(error)
        raise UserError(f"--model {model}: no tokenizer there that loads: {reason}") from error
    if not tokenizer.chat_template:
        raise UserError(f"--model {model}: its tokenizer has no chat template; take an instruct model")
    return PromptEncoder(
        freeze_template(tokenizer, TemplateSettings(switches=generation.switches, key="--template-switch")), 0
    )


def chosen_dtype(dtype: str, device: str) -> str:
    """Return the requested dtype of the weights, else the device's default."""
    with waiting("starting PyTorch"):
        return dtype or default_dtype(device)


def default_dtype(device: str) -> str:
    """Return the default dtype of the weights: float32 on a CPU, else bfloat16; UserError for no such device."""
    from caad_ds.utils.device import pick_device

    return "float32" if pick_device(device).type == "cpu" else "bfloat16"
