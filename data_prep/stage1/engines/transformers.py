"""A Hugging Face causal LM in this process, on a CPU or a GPU."""

from collections.abc import Iterator
from typing import Any

from data_prep.stage1.engines import Answer
from data_prep.stage1.engines.local import LocalEngine, Prompt, chat_prompter, default_dtype
from data_prep.stage1.engines.settings import Asking


class TransformersEngine(LocalEngine):
    """Answers from the seed descriptions."""

    def __init__(
        self, model: str, asking: Asking | None = None, *, batch_size: int = 8, device: str = "", dtype: str = ""
    ):
        import torch
        from transformers import AutoModelForCausalLM

        from caad_ds.models.language_model.llm import check_left_padding, check_stops, position_limit
        from caad_ds.models.pretrained import pretrained
        from caad_ds.models.prompts.prompter import end_tokens
        from caad_ds.utils.device import pick_device

        self.device = pick_device(device)
        self.asking, self.batch_size = asking or Asking(), batch_size
        weights = getattr(torch, dtype or default_dtype(device))
        language_model: Any = pretrained(AutoModelForCausalLM, model, "causal LM", dtype=weights)
        check_stops(language_model.generation_config.stop_strings, f"--model {model}")
        if batch_size > 1:
            check_left_padding(language_model, model)
        self.prompter = chat_prompter(model, self.asking)
        self.model = language_model.to(self.device).eval()
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.ends = end_tokens(self.tokenizer, self.model.generation_config.eos_token_id)
        self.positions = position_limit(self.model.config)

    def _generate(self, prompts: list[Prompt]) -> Iterator[Answer]:
        import torch

        batch = self.tokenizer.pad({"input_ids": [ids for _, ids in prompts]}, return_tensors="pt").to(self.device)
        with torch.inference_mode():
            output = self.model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                do_sample=False,
                logits_processor=self._sampler([record["id"] for record, _ in prompts]),
                max_new_tokens=self.asking.max_new_tokens,
                eos_token_id=self.ends,
                pad_token_id=self.tokenizer.pad_token_id,
            )
        new = output[:, batch["input_ids"].shape[1] :].tolist()
        for (record, _), ids in zip(prompts, new, strict=True):
            yield self._answer(record, ids)

    def _sampler(self, identities: list[str]) -> Any:
        if not self.asking.temperature:
            return None
        from data_prep.stage1.engines.sampling import sampler

        seeds = [self.asking.seed_of(identity) for identity in identities]
        return sampler(self.asking.temperature, self.asking.top_p, seeds, self.device)
