"""A Hugging Face causal LM in this process, on a CPU or a GPU."""

from collections.abc import Container, Iterable, Iterator
from typing import Any

from jinja2 import TemplateError

from caad_ds.errors import UserError
from data_prep.engines import Answer
from data_prep.engines.asking import Asking

WINDOW = 16  # batches per block


class TransformersEngine:
    """Answers in batches, the records of a block sorted by length so that little is padded.

    In float32 an answer is the same in any batch; in bfloat16 another batch rounds differently, and may word it
    differently.
    """

    def __init__(
        self, model: str, asking: Asking | None = None, *, batch_size: int = 8, device: str = "", dtype: str = ""
    ):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from caad_ds.device import pick_device
        from caad_ds.models.pretrained import pretrained

        self.device = pick_device(device)
        self.asking, self.batch_size = asking or Asking(), batch_size
        weights = getattr(torch, dtype or default_dtype(device))
        language_model: Any = pretrained(AutoModelForCausalLM, model, "causal LM", dtype=weights)
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(model, padding_side="left")
        except (OSError, ValueError) as error:
            raise UserError(f"--model {model}: no tokenizer there that loads: {str(error).splitlines()[0]}") from error
        self.model = language_model.to(self.device).eval()
        if not self.tokenizer.chat_template:
            raise UserError(f"--model {model}: its tokenizer has no chat template; take an instruct model")
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        ends = self.model.generation_config.eos_token_id
        self.ends = {self.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}

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
                if any(identity not in done for identity, _ in batch):
                    yield from (answer for answer in self._generate(batch) if answer.id not in done)

    def _prompt(self, record: dict) -> tuple[str, list[int]] | Answer:
        try:
            text = self.tokenizer.apply_chat_template(
                self.asking.messages(record), tokenize=False, add_generation_prompt=True
            )
        except (UserError, TemplateError) as error:
            return Answer(record["id"], reason=f"record: {error}")
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        most = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if most and len(ids) + self.asking.max_new_tokens > most:
            return Answer(record["id"], reason=f"record: its prompt of {len(ids)} tokens leaves no room in {most}")
        return record["id"], ids

    def _generate(self, prompts: list[tuple[str, list[int]]]) -> Iterator[Answer]:
        import torch

        batch = self.tokenizer.pad({"input_ids": [ids for _, ids in prompts]}, return_tensors="pt").to(self.device)
        with torch.inference_mode():
            output = self.model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                do_sample=False,
                logits_processor=self._sampler([identity for identity, _ in prompts]),
                max_new_tokens=self.asking.max_new_tokens,
                eos_token_id=sorted(self.ends),
                pad_token_id=self.tokenizer.pad_token_id,
            )
        new = output[:, batch["input_ids"].shape[1] :].tolist()
        for (identity, _), ids in zip(prompts, new, strict=True):
            yield self._answer(identity, ids)

    def _sampler(self, identities: list[str]) -> Any:
        if not self.asking.temperature:
            return None
        from data_prep.engines.sampling import sampler

        seeds = [self.asking.seed_of(identity) for identity in identities]
        return sampler(self.asking.temperature, self.asking.top_p, seeds, self.device)

    def _answer(self, identity: str, ids: list[int]) -> Answer:
        end = next((position for position, token in enumerate(ids) if token in self.ends), None)
        if end is None:
            return Answer(identity, reason=self.asking.truncated)
        return Answer(identity, self.tokenizer.decode(ids[:end], skip_special_tokens=True).strip())


def default_dtype(device: str) -> str:
    """The weights' dtype where none is asked for: float32 on a CPU, else bfloat16; UserError for no such device."""
    from caad_ds.device import pick_device

    return "float32" if pick_device(device).type == "cpu" else "bfloat16"
