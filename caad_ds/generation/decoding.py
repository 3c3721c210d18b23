"""Greedy, sampled and contrastive decoding of an audio LM through transformers' own `generate`.

The logits of a step pass through logits processors: the contrast, the sampling warpers, then a draw that leaves one
token. `generate` itself decodes greedily. Under contrast both halves of the batch [with audio; without] hold the same
z_c and so continue with the same token.
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
    StoppingCriteria,
    StoppingCriteriaList,
    SuppressTokensLogitsProcessor,
)
from transformers.generation.streamers import BaseStreamer

from caad_ds.data.batch import Batch
from caad_ds.generation.decoding_settings import GATE_M, NO_GATE, Decoding, alpha_fault, gate_fault
from caad_ds.generation.sampling import Forbid, PerItemSampling, Sampling
from caad_ds.loss.alpha_gate import gated_alpha
from caad_ds.loss.contrastive_target import contrast
from caad_ds.models.audio_lm import AudioLM
from caad_ds.models.language_model.plain_generation import plain_generation
from caad_ds.models.prompts.answer_turn import end_tokens
from caad_ds.utils.errors import UserError


@dataclass(frozen=True)
class Contrast:
    """Decoding by z_c = (1 + alpha) z_pos - alpha z_neg; `negative` is the input of the second path.

    `plausibility` drops tokens below that share of max p_pos. With `alpha_gate`, alpha is computed per step and sample
    from z_neg with `gate_m`, and `alpha` is its upper bound (caad_ds/loss/alpha_gate.py).
    """

    alpha: float
    negative: str
    plausibility: float | None = None
    alpha_gate: str = NO_GATE
    gate_m: float = GATE_M

    def __post_init__(self) -> None:
        if wrong := alpha_fault(self.alpha):
            raise UserError(f"contrast_alpha {wrong}")
        if self.plausibility is not None and not 0 < self.plausibility <= 1:
            raise UserError(f"plausibility {self.plausibility}: give a number in (0, 1]")
        if fault := gate_fault(self.alpha, self.alpha_gate, self.gate_m):
            raise UserError("{} {}: {}".format(*fault))

    @classmethod
    def of(cls, settings: Decoding) -> "Contrast | None":
        """Return the contrast of the settings; None without one."""
        if settings.contrast_alpha is None:
            return None
        return cls(
            settings.contrast_alpha, settings.negative, settings.plausibility, settings.alpha_gate, settings.gate_m
        )


class ContrastiveLogits(LogitsProcessor):
    """Write z_c into both halves of a batch [with audio; without], so that both continue with the same token."""

    def __init__(
        self, alpha: float, plausibility: float | None = None, alpha_gate: str = NO_GATE, gate_m: float = GATE_M
    ):
        self.alpha = alpha
        self.floor = None if plausibility is None else math.log(plausibility)
        self.gate_m = None if alpha_gate == NO_GATE else gate_m

    @classmethod
    def of(cls, contrasted: Contrast) -> "ContrastiveLogits":
        """Return the processor of a contrast."""
        return cls(contrasted.alpha, contrasted.plausibility, contrasted.alpha_gate, contrasted.gate_m)

    def __call__(self, input_ids: Tensor | None, scores: Tensor) -> Tensor:
        """Return z_c twice, [2B, V], from [z_pos; z_neg]."""
        z_c = self.contrasted(*scores.chunk(2))
        return torch.cat([z_c, z_c])

    def contrasted(self, z_pos: Tensor, z_neg: Tensor) -> Tensor:
        """Return z_c [N, V] of the two paths' logits; -inf where a token is implausible or was already ruled out."""
        alpha: float | Tensor = self.alpha
        if self.gate_m is not None:
            # A token that is ruled out does not count: 0 log 0 is 0.
            entropy = torch.special.entr(torch.softmax(z_neg, dim=-1)).sum(-1)
            alpha = gated_alpha(entropy, self.alpha, self.gate_m)
        z_c = contrast(z_pos, z_neg, alpha)
        ruled_out = z_pos == -math.inf  # suppressed by the checkpoint on both paths: -inf - -inf is undefined
        if self.floor is not None:
            ruled_out = z_pos < z_pos.amax(-1, keepdim=True) + self.floor
        return z_c.masked_fill(ruled_out, -math.inf)


def decode(
    lm: AudioLM,
    batch: Batch,
    *,
    max_new_tokens: int,
    contrasted: Contrast | None = None,
    negative: Batch | None = None,
    sampling: Sampling | None = None,
    streamer: BaseStreamer | None = None,
) -> list[str]:
    """Return the answers to a left-padded batch of B prompts as text without special tokens; see `generate`."""
    tokens = generate(
        lm, batch,
        max_new_tokens=max_new_tokens, contrasted=contrasted, negative=negative, sampling=sampling, streamer=streamer,
    )  # fmt: skip
    return [text.strip() for text in lm.reader.tokenizer.batch_decode(tokens, skip_special_tokens=True)]


@torch.no_grad()
def generate(
    lm: AudioLM,
    batch: Batch,
    *,
    max_new_tokens: int,
    min_new_tokens: int = 0,
    contrasted: Contrast | None = None,
    negative: Batch | None = None,
    sampling: Sampling | PerItemSampling | None = None,
    forbidden: Tensor | None = None,
    streamer: BaseStreamer | None = None,
    stopping: StoppingCriteria | None = None,
) -> Tensor:
    """Return the answers' tokens, int64 [B, T], padded after their end, to a prepared, left-padded batch of B prompts.

    Greedy without `sampling`. With `contrasted`, both paths run as one batch of 2B (CAAD, contrastive decoding); the
    second one is the batch `negative`, and both continue with the same token. `streamer` and `stopping` see both paths.
    T <= max_new_tokens. Tokens of `forbidden`, bool [V], are never generated. `stopping` may end a row early.
    """
    processors: list[LogitsProcessor] = []
    both = batch
    if contrasted is not None:
        assert negative is not None, "the second path of a contrast"
        both = Batch.cat([batch, negative], pad="left")
        processors.append(ContrastiveLogits.of(contrasted))
    inputs = lm.generation_inputs(both)
    prompt_length = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
    device = str(both.input_ids.device)
    processors += without_placeholder(lm, device)
    if forbidden is not None:
        processors.append(Forbid(forbidden))
    if min_new_tokens:  # after the contrast, which needs finite logits
        processors.append(MinNewTokensLengthLogitsProcessor(prompt_length, min_new_tokens, answer_ends(lm), device))
    if sampling is not None:
        processors.extend(sampling.processors(batch.keys, max_new_tokens, prompt_length))
    written = continued(lm, inputs, processors, max_new_tokens, streamer=streamer, stopping=stopping)
    return written[: len(batch.keys)]


def without_placeholder(lm: AudioLM, device: str) -> list[LogitsProcessor]:
    """Return the processor that keeps the audio placeholder out of answers; none if that token also ends an answer."""
    placeholder = lm.reader.prompts.placeholder
    return [] if placeholder in answer_ends(lm) else [SuppressTokensLogitsProcessor([placeholder], device)]


def answer_ends(lm: AudioLM) -> list[int]:
    return end_tokens(lm.reader.tokenizer, lm.stops)


def continued(
    lm: AudioLM, inputs: dict[str, Any], processors: list[LogitsProcessor], max_new_tokens: int,
    *, past: Cache | None = None, streamer: BaseStreamer | None = None, stopping: StoppingCriteria | None = None,
) -> Tensor:  # fmt: skip
    """Return the tokens, int64 [B, T], that continue left-padded prompts: the argmax after the processors.

    `past` holds the keys and values of the prompts' first positions, whose embeddings are then ignored.
    """
    greedy = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=answer_ends(lm),
        pad_token_id=lm.reader.tokenizer.eos_token_id,
    )
    with plain_generation(lm.generator):
        written = cast(Any, lm.generator).generate(
            **inputs,
            **({} if past is None else {"past_key_values": past}),
            logits_processor=LogitsProcessorList(processors),
            generation_config=greedy,
            streamer=streamer,
            **({} if stopping is None else {"stopping_criteria": StoppingCriteriaList([stopping])}),
        )
    return written[:, inputs["input_ids"].shape[1] :] if "input_ids" in inputs else written
