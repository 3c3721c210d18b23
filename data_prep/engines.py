"""What answers a seed description: the toy template, or a text LLM."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from caad_ds.data.markers import AUDIO, END_AUDIO, START_AUDIO
from caad_ds.errors import UserError


@dataclass(frozen=True)
class Answer:
    """The answer to one record, or the `reason` why there is none to use."""

    id: str
    response: str = ""
    reason: str = ""


class Engine(Protocol):
    """Anything that answers records; it may do so in another order, and yields each answer as soon as it is there."""

    def answers(self, records: list[dict]) -> Iterator[Answer]: ...


class TemplateEngine:
    """Answers with the statement that `prep describe` put into the metadata.

    For toy vocabularies such as the demo's only: its answers are as varied as the instruction file's statements, one
    per option. It stands in for an LLM where a model learns these few sentences from scratch.
    """

    def answers(self, records: list[dict]) -> Iterator[Answer]:
        for record in records:
            statement = (record.get("metadata") or {}).get("statement")
            if not statement:
                raise UserError(
                    f"record {record['id']}: its metadata has no statement for the template engine to answer with; "
                    "run `caad-ds prep describe`, or take --engine transformers"
                )
            yield Answer(record["id"], statement)


class TransformersEngine:
    """A Hugging Face causal LM answers greedily, with the seed description in place of the audio (CAAD, Stage 1).

    Records are sorted by length inside windows of `window` batches, so that little is padded and the first answers
    come early. An answer that is empty, or not ended within `max_new_tokens`, is none.
    """

    window = 16

    def __init__(
        self,
        model: str,
        *,
        system: str | None = None,
        max_new_tokens: int = 128,
        batch_size: int = 8,
        device: str = "",
        dtype: str = "",
    ):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from caad_ds.device import pick_device
        from caad_ds.models.pretrained import pretrained

        self.device = pick_device(device)
        dtype = dtype or ("float32" if self.device.type == "cpu" else "bfloat16")
        language_model: Any = pretrained(AutoModelForCausalLM, model, "causal LM", dtype=getattr(torch, dtype))
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(model, padding_side="left")
        except (OSError, ValueError) as error:
            raise UserError(f"--model {model}: no tokenizer there that loads: {str(error).splitlines()[0]}") from error
        self.model = language_model.to(self.device).eval()
        if not self.tokenizer.chat_template:
            raise UserError(f"--model {model}: its tokenizer has no chat template; take an instruct model")
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.system, self.max_new_tokens, self.batch_size = system, max_new_tokens, batch_size
        ends = self.model.generation_config.eos_token_id
        self.ends = {self.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}

    def answers(self, records: list[dict]) -> Iterator[Answer]:
        size = self.window * self.batch_size
        for start in range(0, len(records), size):
            prompts = [(record["id"], self._ids(record)) for record in records[start : start + size]]
            prompts.sort(key=lambda prompt: len(prompt[1]))
            for first in range(0, len(prompts), self.batch_size):
                yield from self._generate(prompts[first : first + self.batch_size])

    def _ids(self, record: dict) -> list[int]:
        messages = textual_messages(record)
        if self.system is not None:
            messages = [{"role": "system", "content": self.system}, *messages]
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _generate(self, prompts: list[tuple[str, list[int]]]) -> Iterator[Answer]:
        import torch

        batch = self.tokenizer.pad({"input_ids": [ids for _, ids in prompts]}, return_tensors="pt").to(self.device)
        with torch.inference_mode():
            output = self.model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                do_sample=False,
                max_new_tokens=self.max_new_tokens,
                eos_token_id=sorted(self.ends),
                pad_token_id=self.tokenizer.pad_token_id,
            )
        new = output[:, batch["input_ids"].shape[1] :].tolist()
        for (identity, _), ids in zip(prompts, new, strict=True):
            yield self._answer(identity, ids)

    def _answer(self, identity: str, ids: list[int]) -> Answer:
        end = next((position for position, token in enumerate(ids) if token in self.ends), None)
        if end is None:
            return Answer(identity, reason=f"the answer did not end within {self.max_new_tokens} tokens")
        response = self.tokenizer.decode(ids[:end], skip_special_tokens=True).strip()
        return Answer(identity, response) if response else Answer(identity, reason="the answer is empty")


def textual_messages(record: dict) -> list[dict]:
    """The record's messages with the seed description in place of the audio.

    Where `prep describe` recorded the question, it is asked without the hint: a false hint would make false
    pseudo ground truth. Several audios take one line of the seed description each.
    """
    description = record.get("seed_description")
    if not description or not record.get("messages"):
        raise UserError(f"record {record['id']}: no seed description or messages; run `caad-ds prep describe` first")
    question = (record.get("metadata") or {}).get("question")
    if question:
        return [{"role": "user", "content": f"{description}\n{question}"}]
    lines = description.split("\n") if len(record["audios"]) > 1 else [description]
    if len(lines) != len(record["audios"]):
        raise UserError(
            f"record {record['id']}: its seed description has {len(lines)} lines for {len(record['audios'])} audios"
        )
    rest = iter(lines)
    return [{**message, "content": _described(message["content"], rest)} for message in record["messages"]]


def _described(content: str, lines: Iterator[str]) -> str:
    first, *others = content.replace(f"{START_AUDIO}{AUDIO}{END_AUDIO}", AUDIO).split(AUDIO)
    return first + "".join(next(lines) + other for other in others)
