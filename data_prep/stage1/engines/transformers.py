"""A Hugging Face causal LM in this process, on a CPU or a GPU."""

from collections.abc import Iterator
from typing import Any

from caad_ds.utils.model_names import check_hub_or_folder
from caad_ds.utils.progress import progress
from data_prep.stage1.engines import Answer, Engine, PreparedEngine
from data_prep.stage1.engines.engine_options import EngineOptions
from data_prep.stage1.engines.generation_settings import GenerationSettings
from data_prep.stage1.engines.local import WINDOW, LocalEngine, Prompt, chat_prompt_encoder, chosen_dtype, default_dtype


def prepare(options: EngineOptions) -> PreparedEngine:
    """Prepare the model; a folder must exist, a hub id is not looked up."""
    model, generation, batch_size = options.needed_model("transformers"), options.generation, options.batch_size
    check_hub_or_folder(model, "causal LM")
    # Runs whose settings lack this key sampled with Gumbel noise.
    sampling = {"sampling": "inverse CDF"} if generation.temperature else {}
    dtype = chosen_dtype(options.dtype, options.device)

    def load() -> Engine:
        with progress(f"loading {model}"):
            return TransformersEngine(model, generation, batch_size=batch_size, device=options.device, dtype=dtype)

    settings = {"model": model, **generation.content(), **sampling, "dtype": dtype, "batch_size": batch_size}
    return PreparedEngine(settings, load, WINDOW * batch_size)


class TransformersEngine(LocalEngine):
    """Answers from the seed descriptions."""

    def __init__(
        self,
        model: str,
        generation: GenerationSettings | None = None,
        *,
        batch_size: int = 8,
        device: str = "",
        dtype: str = "",
    ):
        import torch
        from transformers import AutoModelForCausalLM

        from caad_ds.models.language_model.llm_checks import check_left_padding, check_stops
        from caad_ds.models.language_model.load_llm import position_limit
        from caad_ds.models.pretrained import pretrained
        from caad_ds.models.prompts.answer_turn import end_tokens
        from caad_ds.utils.device import pick_device

        self.device = pick_device(device)
        self.generation, self.batch_size = generation or GenerationSettings(), batch_size
        weights = getattr(torch, dtype or default_dtype(device))
        language_model: Any = pretrained(AutoModelForCausalLM, model, "causal LM", dtype=weights)
        check_stops(language_model.generation_config.stop_strings, f"--model {model}")
        if batch_size > 1:
            check_left_padding(language_model, model)
        self.prompt_encoder = chat_prompt_encoder(model, self.generation)
        self.model = language_model.to(self.device).eval()
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.ends = end_tokens(self.tokenizer, self.model.generation_config.eos_token_id)
        self.positions = position_limit(self.model.config)

    def _generate(self, prompts: list[Prompt]) -> Iterator[Answer]:
        import torch
        from transformers import LogitsProcessorList

        batch = self.tokenizer.pad({"input_ids": [ids for _, ids in prompts]}, return_tensors="pt").to(self.device)
        length, most = batch["input_ids"].shape[1], self.generation.max_new_tokens
        sampling, names = self.generation.sampling(), [record["id"] for record, _ in prompts]
        with torch.inference_mode():
            output = self.model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                do_sample=False,
                logits_processor=LogitsProcessorList(sampling.processors(names, most, length) if sampling else []),
                max_new_tokens=most,
                eos_token_id=self.ends,
                pad_token_id=self.tokenizer.pad_token_id,
            )
        for (record, _), ids in zip(prompts, output[:, length:].tolist(), strict=True):
            yield self._answer(record["id"], ids)
