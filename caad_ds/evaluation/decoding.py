"""Greedy and contrastive decoding of a SpeechLM through transformers' own `generate`."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from caad_ds.data.batch import Batch
from caad_ds.distill.negatives import Negative, embed_both
from caad_ds.loss.objective import contrast
from caad_ds.models.speech_lm import SpeechLM
from caad_ds.models.states import AudioStates


@dataclass(frozen=True)
class Contrast:
    """Decoding by z_c = (1 + alpha) z_pos - alpha z_neg; `plausibility` drops tokens below that share of max p_pos."""

    alpha: float
    negative: Negative
    plausibility: float | None = None


class ContrastiveLogits(LogitsProcessor):
    """Puts z_c into both halves of a batch [with audio; without], so that both go on with the same token."""

    def __init__(self, alpha: float, plausibility: float | None = None):
        self.alpha = alpha
        self.floor = None if plausibility is None else math.log(plausibility)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """z_c twice, [2B, V], from [z_pos; z_neg]."""
        z_pos, z_neg = scores.chunk(2)
        z_c = contrast(z_pos, z_neg, self.alpha)
        if self.floor is not None:
            z_c = z_c.masked_fill(z_pos < z_pos.amax(-1, keepdim=True) + self.floor, -math.inf)
        return torch.cat([z_c, z_c])


@torch.no_grad()
def decode(
    model: SpeechLM,
    tokenizer: Any,
    batch: Batch,
    states: AudioStates,
    *,
    max_new_tokens: int,
    contrasted: Contrast | None = None,
) -> list[str]:
    """The greedy answers to a left-padded batch of B prompts, special tokens left out.

    Under `contrasted` both paths run as one batch of 2B with a cache each (CAAD, contrastive decoding).
    """
    processors = LogitsProcessorList()
    if contrasted is None:
        embedded = model.embed(batch, states)
    else:
        embedded = embed_both(model, batch, states, contrasted.negative)
        processors.append(ContrastiveLogits(contrasted.alpha, contrasted.plausibility))
    tokens = model.llm.generate(
        inputs_embeds=embedded.inputs_embeds,
        attention_mask=embedded.attention_mask,
        position_ids=embedded.position_ids,
        logits_processor=processors,
        generation_config=_greedy(model, tokenizer, max_new_tokens),
    )
    texts = tokenizer.batch_decode(tokens[: len(batch.keys)], skip_special_tokens=True)
    return [text.strip() for text in texts]


def _greedy(model: SpeechLM, tokenizer: Any, max_new_tokens: int) -> GenerationConfig:
    """Plain greedy search: what a checkpoint recommends for sampling or against repetition is overridden."""
    own = model.llm.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None}
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        temperature=1.0,
        top_k=50,
        top_p=1.0,
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(ends),
        pad_token_id=tokenizer.eos_token_id,
    )
