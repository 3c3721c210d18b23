"""What engines that run a model in this process share: batches formed inside a block, answers read off tokens."""

from abc import ABC, abstractmethod
from collections.abc import Container, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from caad_ds.data.record import Message, PromptRecord, Record
from caad_ds.utils.errors import UserError
from caad_ds.utils.progress import waiting
from data_prep.stage1.engines import Answer
from data_prep.stage1.engines.settings import GenerationSettings

if TYPE_CHECKING:  # it imports PyTorch
    from caad_ds.models.prompts.prompt_encoder import PromptEncoder

WINDOW = 16  # batches per block
ANY: Message = {"role": "user", "content": "?"}  # a chat that every template takes

Prompt = tuple[Record, list[int]]  # a record and the tokens that it is asked by


class LocalEngine(ABC):
    """Answers in batches, the records of a block sorted by length so that little is padded.

    In float32 a greedy answer is the same in any batch, and a drawn one nearly always; in bfloat16 another batch rounds
    differently, and may word either differently.
    """

    asking: GenerationSettings
    batch_size: int
    prompter: "PromptEncoder"
    ends: list[int]  # the tokens that end an answer
    positions: int | None  # the most tokens of prompt and answer together, where the model says so

    @property
    def tokenizer(self) -> Any:
        return self.prompter.tokenizer

    def _asked(self, record: Record) -> PromptRecord:
        """What is asked, as a record; UserError if it cannot be asked about."""
        return {"id": record["id"], "messages": self.asking.messages(record), "audios": []}

    def _ids(self, asked: PromptRecord) -> list[int]:
        """The tokens of what is asked; UserError if the template has no such prompt."""
        return self.prompter.prompt(asked)[0]

    @abstractmethod
    def _generate(self, prompts: list[Prompt]) -> Iterator[Answer]:
        """The answers to one batch."""

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
            ids = self._ids(self._asked(record))
        except UserError as error:
            return Answer(record["id"], reason=f"record: {_told(error, record['id'])}")
        if self.positions and len(ids) + self.asking.max_new_tokens > self.positions:
            reason = f"record: its prompt of {len(ids)} tokens leaves no room in {self.positions}"
            return Answer(record["id"], reason=reason)
        return record, ids

    def _answer(self, identity: str, ids: list[int]) -> Answer:
        end = next((position for position, token in enumerate(ids) if token in self.ends), None)
        text = self.tokenizer.decode(ids[:end], skip_special_tokens=True).strip()
        if end is None:
            return Answer(identity, text, self.asking.truncated)
        try:
            self.prompter.encode({"id": identity, "messages": [ANY], "audios": [], "response": text})
        except UserError as error:
            return Answer(identity, text, f"markup: {_told(error, identity)}")
        return Answer(identity, text)


def _told(error: UserError, identity: str) -> str:
    return str(error).removeprefix(f"record {identity}: ")


def chat_prompter(model: str, asking: GenerationSettings) -> "PromptEncoder":
    """What writes the prompts of an instruct model; UserError if it has no tokenizer or no template.

    Its tokenizer pads on the left, its chat template is frozen.
    """
    from transformers import AutoTokenizer

    from caad_ds.models.prompts.chat_template import TemplateSettings, freeze_template
    from caad_ds.models.prompts.prompt_encoder import PromptEncoder

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(model, padding_side="left", trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:  # a format may need a package that is not installed
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"--model {model}: no tokenizer there that loads: {reason}") from error
    if not tokenizer.chat_template:
        raise UserError(f"--model {model}: its tokenizer has no chat template; take an instruct model")
    return PromptEncoder(
        freeze_template(tokenizer, TemplateSettings(switches=asking.switches, key="--template-switch")), 0
    )


def chosen_dtype(dtype: str, device: str) -> str:
    """The weights' dtype that is asked for, else the default of the device."""
    with waiting("starting PyTorch"):
        return dtype or default_dtype(device)


def default_dtype(device: str) -> str:
    """The weights' dtype where none is asked for: float32 on a CPU, else bfloat16; UserError for no such device."""
    from caad_ds.utils.device import pick_device

    return "float32" if pick_device(device).type == "cpu" else "bfloat16"
