"""Greedy, sampled and contrastive decoding of an audio LM through transformers' own `generate`.

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
    StoppingCriteria,
    StoppingCriteriaList,
    SuppressTokensLogitsProcessor,
)
from transformers.generation.streamers import BaseStreamer

from caad_ds.data.batch import Batch
from caad_ds.generation.decoding_settings import GATE_M, NO_GATE, Decoding, alpha_fault, gate_fault
from caad_ds.generation.sampling import EachSampling, Forbid, Sampling
from caad_ds.loss.gate import gated_alpha
from caad_ds.loss.objective import contrast
from caad_ds.models.audio_lm import AudioLM
from caad_ds.models.language_model.llm import plain_generation
from caad_ds.models.prompts.prompt_encoder import end_tokens
from caad_ds.utils.errors import UserError


@dataclass(frozen=True)
class Contrast:
    """Decoding by z_c = (1 + alpha) z_pos - alpha z_neg, the second path being that of `negative`.

    `plausibility` drops tokens below that share of max p_pos. `alpha_gate` makes `alpha` the upper bound of one per
    step and sample, found from z_neg with `gate_m` (caad_ds/loss/gate.py).
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
    def of(cls, how: Decoding) -> "Contrast | None":
        """The contrast that settings ask for, if they do."""
        if how.contrast_alpha is None:
            return None
        return cls(how.contrast_alpha, how.negative, how.plausibility, how.alpha_gate, how.gate_m)


class ContrastiveLogits(LogitsProcessor):
    """Puts z_c into both halves of a batch [with audio; without], so that both go on with the same token."""

    def __init__(
        self, alpha: float, plausibility: float | None = None, alpha_gate: str = NO_GATE, gate_m: float = GATE_M
    ):
        self.alpha = alpha
        self.floor = None if plausibility is None else math.log(plausibility)
        self.gate_m = None if alpha_gate == NO_GATE else gate_m

    @classmethod
    def of(cls, contrasted: Contrast) -> "ContrastiveLogits":
        """Those of a contrast."""
        return cls(contrasted.alpha, contrasted.plausibility, contrasted.alpha_gate, contrasted.gate_m)

    def __call__(self, input_ids: Tensor | None, scores: Tensor) -> Tensor:
        """z_c twice, [2B, V], from [z_pos; z_neg]."""
        z_c = self.contrasted(*scores.chunk(2))
        return torch.cat([z_c, z_c])

    def contrasted(self, z_pos: Tensor, z_neg: Tensor) -> Tensor:
        """z_c [N, V] of the two paths' logits; -inf where a token is implausible or was ruled out before."""
        alpha: float | Tensor = self.alpha
        if self.gate_m is not None:
            # A token that is ruled out is no part of the distribution: 0 log 0 is 0.
            entropy = torch.special.entr(torch.softmax(z_neg, dim=-1)).sum(-1)
            alpha = gated_alpha(entropy, self.alpha, self.gate_m)
        z_c = contrast(z_pos, z_neg, alpha)
        ruled_out = z_pos == -math.inf  # by what a checkpoint suppresses, on both paths: no difference can be taken
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
    """The answers to a left-padded batch of B prompts as text, special tokens left out; see `generate`."""
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
    sampling: Sampling | EachSampling | None = None,
    forbidden: Tensor | None = None,
    streamer: BaseStreamer | None = None,
    stopping: StoppingCriteria | None = None,
) -> Tensor:
    """The answers' tokens, int64 [B, T], to a prepared, left-padded batch of B prompts; after its end one is padded.

    Greedy without `sampling`. Under `contrasted` both paths, the second being the batch `negative`, run as one batch of
    2B with a cache each (CAAD, contrastive decoding), which `streamer` sees; one token, the likeliest or the one drawn,
    serves both. T <= max_new_tokens. No token of `forbidden`, bool [V], is written. `stopping`, which sees both
    paths as well, may end a row before its end token.
    """
    processors: list[LogitsProcessor] = []
    both = batch
    if contrasted is not None:
        assert negative is not None, "the second path of a contrast"
        both = Batch.cat([batch, negative], pad="left")
        processors.append(ContrastiveLogits.of(contrasted))
    inputs = lm.generation_inputs(both)
    given = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
    device = str(both.input_ids.device)
    processors += without_placeholder(lm, device)
    if forbidden is not None:
        processors.append(Forbid(forbidden))
    if min_new_tokens:  # after the contrast, which needs finite logits
        processors.append(MinNewTokensLengthLogitsProcessor(given, min_new_tokens, answer_ends(lm), device))
    if sampling is not None:
        processors.extend(sampling.processors(batch.keys, max_new_tokens, given))
    written = continued(lm, inputs, processors, max_new_tokens, streamer=streamer, stopping=stopping)
    return written[: len(batch.keys)]


def without_placeholder(lm: AudioLM, device: str) -> list[LogitsProcessor]:
    """What keeps the placeholder for audio out of an answer, where it is a token that nothing else uses."""
    placeholder = lm.reader.prompts.placeholder
    return [] if placeholder in answer_ends(lm) else [SuppressTokensLogitsProcessor([placeholder], device)]


def answer_ends(lm: AudioLM) -> list[int]:
    return end_tokens(lm.reader.tokenizer, lm.stops)


def continued(
    lm: AudioLM, inputs: dict[str, Any], processors: list[LogitsProcessor], max_new_tokens: int,
    *, past: Cache | None = None, streamer: BaseStreamer | None = None, stopping: StoppingCriteria | None = None,
) -> Tensor:  # fmt: skip
    """The likeliest tokens after the processors, int64 [B, T], that continue left-padded prompts.

    `past` holds the keys and values of the prompts' first positions, whose embeddings are then not read.
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
