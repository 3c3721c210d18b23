"""Greedy, sampled and contrastive decoding of a SpeechLM through transformers' own `generate`.

What happens to the logits of a step is a list of logits processors: the contrast, the warpers of sampling, then a draw
that leaves one token. `generate` itself searches greedily, so that nothing else draws: under contrast both halves of
the batch [with audio; without] hold the same z_c and go on with the same token.
"""

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers import (
    Cache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
)
from transformers.generation.streamers import BaseStreamer

from caad_ds.data.batch import Batch
from caad_ds.generation.sampling import Sampling
from caad_ds.loss.objective import contrast
from caad_ds.models.language_model.llm import plain_generation
from caad_ds.models.negatives import Negative, embed_both
from caad_ds.models.prompts.prompt_encoder import end_tokens
from caad_ds.models.speech_lm.embed import embed
from caad_ds.models.whisper_qformer.audio_states import AudioStates
from caad_ds.models.whisper_qformer.causal_lm import accepted
from caad_ds.models.whisper_qformer.embedded_batch import Embedded
from caad_ds.models.whisper_qformer.speech_lm import SpeechLM
from caad_ds.utils.errors import UserError


@dataclass(frozen=True)
class Contrast:
    """Decoding by z_c = (1 + alpha) z_pos - alpha z_neg; `plausibility` drops tokens below that share of max p_pos."""

    alpha: float
    negative: Negative
    plausibility: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < math.inf:
            raise UserError(f"contrast_alpha {self.alpha}: give a finite number of at least 0")
        if self.plausibility is not None and not 0 < self.plausibility <= 1:
            raise UserError(f"plausibility {self.plausibility}: give a number in (0, 1]")


class ContrastiveLogits(LogitsProcessor):
    """Puts z_c into both halves of a batch [with audio; without], so that both go on with the same token."""

    def __init__(self, alpha: float, plausibility: float | None = None):
        self.alpha = alpha
        self.floor = None if plausibility is None else math.log(plausibility)

    def __call__(self, input_ids: Tensor | None, scores: Tensor) -> Tensor:
        """z_c twice, [2B, V], from [z_pos; z_neg]."""
        z_c = self.contrasted(*scores.chunk(2))
        return torch.cat([z_c, z_c])

    def contrasted(self, z_pos: Tensor, z_neg: Tensor) -> Tensor:
        """z_c [N, V] of the two paths' logits; -inf where a token is implausible or was ruled out before."""
        z_c = contrast(z_pos, z_neg, self.alpha)
        ruled_out = z_pos == -math.inf  # by what a checkpoint suppresses, on both paths: no difference can be taken
        if self.floor is not None:
            ruled_out = z_pos < z_pos.amax(-1, keepdim=True) + self.floor
        return z_c.masked_fill(ruled_out, -math.inf)


def decode(
    model: SpeechLM,
    tokenizer: Any,
    batch: Batch,
    states: AudioStates,
    *,
    max_new_tokens: int,
    contrasted: Contrast | None = None,
    sampling: Sampling | None = None,
    streamer: BaseStreamer | None = None,
) -> list[str]:
    """The answers to a left-padded batch of B prompts as text, special tokens left out; see `generate`."""
    tokens = generate(
        model, tokenizer, batch, states,
        max_new_tokens=max_new_tokens, contrasted=contrasted, sampling=sampling, streamer=streamer,
    )  # fmt: skip
    return [text.strip() for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)]


@torch.no_grad()
def generate(
    model: SpeechLM,
    tokenizer: Any,
    batch: Batch,
    states: AudioStates,
    *,
    max_new_tokens: int,
    min_new_tokens: int = 0,
    contrasted: Contrast | None = None,
    sampling: Sampling | None = None,
    streamer: BaseStreamer | None = None,
) -> Tensor:
    """The answers' tokens, int64 [B, T], to a left-padded batch of B prompts; after its end an answer is padded.

    Greedy without `sampling`. Under `contrasted` both paths run as one batch of 2B with a cache each (CAAD, contrastive
    decoding), which `streamer` sees; one token, the likeliest or the one drawn, serves both. T <= max_new_tokens.
    """
    processors: list[LogitsProcessor] = []
    if contrasted is None:
        embedded = embed(model, batch, states)
    else:
        embedded = embed_both(model, batch, states, contrasted.negative)
        processors.append(ContrastiveLogits(contrasted.alpha, contrasted.plausibility))
    if min_new_tokens:  # after the contrast, which needs finite logits
        ends = end_tokens(tokenizer, model.llm.generation_config.eos_token_id)
        device = str(embedded.inputs_embeds.device)
        processors.append(MinNewTokensLengthLogitsProcessor(0, min_new_tokens, ends, device))
    if sampling is not None:
        processors.extend(sampling.processors(batch.keys, max_new_tokens))
    return continued(model, tokenizer, embedded, processors, max_new_tokens, streamer=streamer)[: len(batch.keys)]


def continued(
    model: SpeechLM, tokenizer: Any, embedded: Embedded, processors: list[LogitsProcessor], max_new_tokens: int,
    *, past: Cache | None = None, streamer: BaseStreamer | None = None,
) -> Tensor:  # fmt: skip
    """The likeliest tokens after the processors, int64 [B, T], that continue left-padded prompts.

    `past` holds the keys and values of the prompts' first positions, whose embeddings are then not read.
    """
    greedy = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=end_tokens(tokenizer, model.llm.generation_config.eos_token_id),
        pad_token_id=tokenizer.eos_token_id,
    )
    with plain_generation(model.llm):
        return cast(Any, model.llm).generate(
            inputs_embeds=embedded.inputs_embeds,
            attention_mask=embedded.attention_mask,
            **accepted(model.llm, position_ids=embedded.position_ids),
            **({} if past is None else {"past_key_values": past}),
            logits_processor=LogitsProcessorList(processors),
            generation_config=greedy,
            streamer=streamer,
        )
