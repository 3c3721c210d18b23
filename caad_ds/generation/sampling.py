"""Sampling in transformers' `generate` such that an answer does not depend on those beside it.

`generate` draws all rows of a batch from one generator, and a GPU's generator draws other numbers than a CPU's.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from caad_ds.generation.decoding_settings import Decoding


@dataclass(frozen=True)
class Sampling:
    """Drawing from softmax(z / temperature), of the `top_k` likeliest tokens and of the likeliest of mass `top_p`.

    The number drawn for a step depends on (seed, item, step) alone: not on the batch, its size, the device or the rank.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    seed: int = 0

    @classmethod
    def of(cls, how: Decoding) -> "Sampling | None":
        """The sampling that settings ask for, if they do."""
        if how.temperature is None:
            return None
        return cls(how.temperature, how.top_p or 1.0, how.top_k, how.seed or 0)

    def processors(self, keys: Sequence[str], steps: int, prompt: int = 0) -> list[LogitsProcessor]:
        """The warpers in the order of transformers, then the draw for the items `keys`.

        `prompt` is the number of tokens that `generate` is given; 0 where it is given embeddings.
        """
        warpers: list[LogitsProcessor] = [TemperatureLogitsWarper(float(self.temperature))]
        if self.top_k is not None:
            warpers.append(TopKLogitsWarper(self.top_k))
        if self.top_p < 1:
            warpers.append(TopPLogitsWarper(self.top_p))
        return [*warpers, Draw(np.stack([self._uniform(key, steps) for key in keys]), prompt)]

    def _uniform(self, key: str, steps: int) -> np.ndarray:
        """Uniform numbers of [0, 1), float64 [steps]; fewer steps get the first ones of more."""
        digest = hashlib.sha256(f"{self.seed}:{key}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest)).random(steps)


@dataclass(frozen=True)
class EachSampling:
    """A sampling for each item of a batch, None for a greedy one; each draws as it does alone."""

    each: Sequence[Sampling | None]

    def processors(self, keys: Sequence[str], steps: int, prompt: int = 0) -> list[LogitsProcessor]:
        """The draws for the items `keys`, a processor for each setting that several may share; see `Sampling`."""
        rows: dict[Sampling, list[int]] = {}
        for row, sampling in enumerate(self.each):
            if sampling is not None:
                rows.setdefault(sampling, []).append(row)
        return [
            OfRows(sampling.processors([keys[row] for row in chosen], steps, prompt), chosen, len(keys))
            for sampling, chosen in rows.items()
        ]


class OfRows(LogitsProcessor):
    """Processors for some `rows` of a batch of so many `items`, on every path of these; the others stay as they are."""

    def __init__(self, processors: Sequence[LogitsProcessor], rows: Sequence[int], items: int):
        self.processors, self.rows, self.items = processors, rows, items

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Logits [paths * B, V]."""
        places = [first + row for first in range(0, len(scores), self.items) for row in self.rows]
        chosen, ids = scores[places], input_ids[places]
        for processor in self.processors:
            chosen = processor(ids, chosen)
        scores = scores.clone()
        scores[places] = chosen
        return scores


class Draw(LogitsProcessor):
    """Leaves of each row the token at which its cumulative probability passes the step's number in `uniform` [B, T].

    Rows beyond the first B are other paths of the same items, and take the token that was drawn for the first. The
    first step is the one after `prompt` tokens.
    """

    def __init__(self, uniform: np.ndarray, prompt: int = 0):
        self.uniform, self.prompt = torch.from_numpy(uniform), prompt

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Logits [paths * B, V] of 0 at the token drawn and -inf elsewhere."""
        items, step = len(self.uniform), input_ids.shape[1] - self.prompt
        # In float64 the rounding of a sum over the vocabulary moves no boundary that anyone could see.
        cumulative = torch.softmax(scores[:items].double(), dim=-1).cumsum(-1)
        self.uniform = self.uniform.to(scores.device)
        share = self.uniform[:, step, None]
        token = torch.searchsorted(cumulative, share * cumulative[:, -1:], right=True)
        # Of logits that are not finite there is none: the last that may be drawn, so that whoever reads it can go on.
        allowed = (scores[:items] != -math.inf).to(torch.uint8)
        token = torch.minimum(token, scores.shape[1] - 1 - allowed.flip(-1).argmax(-1, keepdim=True))
        return torch.full_like(scores, -math.inf).scatter(-1, token.repeat(len(scores) // items, 1), 0.0)


class Forbid(LogitsProcessor):
    """Gives the tokens of `tokens`, bool [V], no probability."""

    def __init__(self, tokens: Tensor):
        self.tokens = tokens

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Logits [B, V] of -inf at these tokens."""
        self.tokens = self.tokens.to(scores.device)
        return scores.masked_fill(self.tokens, -math.inf)
