"""vLLM in this process (extra `vllm`): continuous batching on GPUs.

Written against vLLM's documented interface (`LLM.chat`, `SamplingParams`); it needs a GPU and has not been run by this
project's tests.
"""

from collections.abc import Container, Iterable, Iterator
from typing import Any

from caad_ds.errors import UserError
from data_prep.engines import Answer
from data_prep.engines.asking import Asking

BLOCK = 1024  # records handed over at once


class VllmEngine:
    """Answers a block per call of `LLM.chat`, each record with a seed of its own.

    vLLM forms the batches itself, so a rerun can word an answer differently where rounding decides between two tokens.
    """

    def __init__(self, model: str, asking: Asking, *, dtype: str = "", tensor_parallel_size: int = 1):
        try:
            from vllm import LLM, SamplingParams
        except ImportError as error:
            raise UserError(f"--engine vllm: vLLM is not installed ({error}); pip install 'caad-ds[vllm]'") from error
        self.asking, self._params = asking, SamplingParams
        self.llm: Any = LLM(model=model, dtype=dtype or "auto", tensor_parallel_size=tensor_parallel_size, seed=0)

    def answers(self, blocks: Iterable[list[dict]], done: Container[str]) -> Iterator[Answer]:
        for block in blocks:
            if any(record["id"] not in done for record in block):
                yield from (answer for answer in self._block(block) if answer.id not in done)

    def _block(self, block: list[dict]) -> Iterator[Answer]:
        identities, chats = [], []
        for record in block:
            try:
                chats.append(self.asking.messages(record))
                identities.append(record["id"])
            except UserError as error:
                yield Answer(record["id"], reason=f"record: {error}")
        if chats:
            yield from self._chat(identities, chats)

    def _chat(self, identities: list[str], chats: list[list[dict]]) -> Iterator[Answer]:
        params = [self._sampling(identity) for identity in identities]
        try:
            outputs = self.llm.chat(chats, params, use_tqdm=False)
        except ValueError as error:  # one prompt that is too long, or that the chat template refuses, ends the call
            if len(chats) == 1:
                yield Answer(identities[0], reason=f"record: {' '.join(str(error).split())}")
                return
            for identity, chat in zip(identities, chats, strict=True):
                yield from self._chat([identity], [chat])
            return
        for identity, output in zip(identities, outputs, strict=True):
            [only] = output.outputs
            cut = only.finish_reason == "length"
            yield Answer(identity, reason=self.asking.truncated) if cut else Answer(identity, only.text.strip())

    def _sampling(self, identity: str) -> Any:
        return self._params(
            temperature=self.asking.temperature,
            top_p=self.asking.top_p,
            max_tokens=self.asking.max_new_tokens,
            seed=self.asking.seed_of(identity),
        )
