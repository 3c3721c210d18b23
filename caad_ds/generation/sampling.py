"""Sampling in transformers' `generate` that does not depend on the batch or the device.

`generate` itself draws all rows of a batch from one generator, and GPU and CPU generators draw different numbers.
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
    """Sampling from softmax(z / temperature), restricted to the `top_k` likeliest tokens and the nucleus `top_p`.

    The number drawn for a step depends only on (seed, item, step), not on the batch, its size, the device or the rank.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    seed: int = 0

    @classmethod
    def of(cls, settings: Decoding) -> "Sampling | None":
        """Return the sampling of the settings; None if greedy."""
        if settings.temperature is None:
            return None
        return cls(settings.temperature, settings.top_p or 1.0, settings.top_k, settings.seed or 0)

    def processors(self, keys: Sequence[str], steps: int, prompt: int = 0) -> list[LogitsProcessor]:
        """Return the warpers in the order of transformers, then the draw for the items `keys`.

        `prompt` is the number of prompt tokens passed to `generate`; 0 if it gets embeddings.
        """
        warpers: list[LogitsProcessor] = [TemperatureLogitsWarper(float(self.temperature))]
        if self.top_k is not None:
            warpers.append(TopKLogitsWarper(self.top_k))
        if self.top_p < 1:
            warpers.append(TopPLogitsWarper(self.top_p))
        return [*warpers, Draw(np.stack([self._uniform(key, steps) for key in keys]), prompt)]

    def _uniform(self, key: str, steps: int) -> np.ndarray:
        """Return uniform numbers in [0, 1), float64 [steps]; fewer steps get a prefix of more steps."""
        digest = hashlib.sha256(f"{self.seed}:{key}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest)).random(steps)


@dataclass(frozen=True)
class PerItemSampling:
    """A sampling per item of a batch, None for greedy; each item draws as it does in a batch of its own."""

    samplings: Sequence[Sampling | None]

    def processors(self, keys: Sequence[str], steps: int, prompt: int = 0) -> list[LogitsProcessor]:
        """Return one processor per distinct setting, for the items `keys`; see `Sampling`."""
        rows: dict[Sampling, list[int]] = {}
        for row, sampling in enumerate(self.samplings):
            if sampling is not None:
                rows.setdefault(sampling, []).append(row)
        return [
            RowProcessors(sampling.processors([keys[row] for row in chosen], steps, prompt), chosen, len(keys))
            for sampling, chosen in rows.items()
        ]


class RowProcessors(LogitsProcessor):
    """Apply processors to some `rows` of a batch of `items`, on all their paths; other rows are unchanged."""

    def __init__(self, processors: Sequence[LogitsProcessor], rows: Sequence[int], items: int):
        self.processors, self.rows, self.items = processors, rows, items

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the logits [paths * B, V]."""
        indices = [first + row for first in range(0, len(scores), self.items) for row in self.rows]
        chosen, ids = scores[indices], input_ids[indices]
        for processor in self.processors:
            chosen = processor(ids, chosen)
        scores = scores.clone()
        scores[indices] = chosen
        return scores


class Draw(LogitsProcessor):
    """Keep one token per row: the one where the cumulative probability passes the step's number in `uniform` [B, T].

    Rows beyond the first B are other paths of the same items and get the same token as the first path. The first step
    follows `prompt` tokens.
    """

    def __init__(self, uniform: np.ndarray, prompt: int = 0):
        self.uniform, self.prompt = torch.from_numpy(uniform), prompt

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return logits [paths * B, V]: 0 at the drawn token, -inf elsewhere."""
        items, step = len(self.uniform), input_ids.shape[1] - self.prompt
        # float64, so that rounding of the sum over the vocabulary is negligible.
        cumulative = torch.softmax(scores[:items].double(), dim=-1).cumsum(-1)
        self.uniform = self.uniform.to(scores.device)
        share = self.uniform[:, step, None]
        token = torch.searchsorted(cumulative, share * cumulative[:, -1:], right=True)
        # For non-finite logits no token is found: take the last allowed one, so that generation continues.
        allowed = (scores[:items] != -math.inf).to(torch.uint8)
        token = torch.minimum(token, scores.shape[1] - 1 - allowed.flip(-1).argmax(-1, keepdim=True))
        return torch.full_like(scores, -math.inf).scatter(-1, token.repeat(len(scores) // items, 1), 0.0)


class Forbid(LogitsProcessor):
    """Set the probability of `tokens`, bool [V], to 0."""

    def __init__(self, tokens: Tensor):
        self.tokens = tokens

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the logits [B, V], -inf at these tokens."""
        self.tokens = self.tokens.to(scores.device)
        return scores.masked_fill(self.tokens, -math.inf)
