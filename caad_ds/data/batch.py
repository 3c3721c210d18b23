"""What one micro-step sees: samples as the reader gives them, and the batch made of them."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -100


@dataclass(frozen=True)
class Batch:
    """B tokenised samples with A audios in all, in order of appearance.

    `input_ids`, `attention_mask`, `labels` are int64 [B, S]; `labels[b, t]` is the token that stands at t if it
    belongs to the answer, else -100. `audio_mask` is bool [B, S]: the K positions per audio that hold connector
    outputs. `features` is float32 [U, mel, frames], one row per different audio, and `audio_index` int64 [A] tells
    which row each audio is; prompts about one audio share a row. Both are empty where audio is not needed.
    """

    keys: list[str]
    input_ids: Tensor
    attention_mask: Tensor
    audio_mask: Tensor
    labels: Tensor
    features: Tensor = field(default_factory=lambda: torch.empty(0))
    audio_index: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))

    @staticmethod
    def cat(batches: list["Batch"]) -> "Batch":
        """Several batches as one, padded on the right to the longest; answer rows and audios keep their order."""
        if len(batches) == 1:
            return batches[0]
        length = max(batch.input_ids.shape[1] for batch in batches)
        offsets = np.cumsum([0, *(len(batch.features) for batch in batches[:-1])])

        def column(name: str, value: int) -> Tensor:
            parts = [getattr(batch, name) for batch in batches]
            return torch.cat([F.pad(part, (0, length - part.shape[1]), value=value) for part in parts])

        return Batch(
            keys=[key for batch in batches for key in batch.keys],
            input_ids=column("input_ids", 0),
            attention_mask=column("attention_mask", 0),
            audio_mask=column("audio_mask", False),
            labels=column("labels", IGNORE),
            features=torch.cat([batch.features for batch in batches]),
            audio_index=torch.cat([b.audio_index + int(o) for b, o in zip(batches, offsets, strict=True)]),
        )

    @property
    def answer_rows(self) -> Tensor:
        """Flat indices b * S + t, int64 [N], of the positions that predict an answer token (the next one)."""
        predicts = self.labels[:, 1:] != IGNORE
        rows = torch.zeros_like(self.labels, dtype=torch.bool)
        rows[:, :-1] = predicts
        return rows.flatten().nonzero().squeeze(-1)

    @property
    def targets(self) -> Tensor:
        """The answer tokens, int64 [N], in the order of `answer_rows`."""
        shifted = self.labels[:, 1:]
        return shifted[shifted != IGNORE]

    @property
    def sample_of_row(self) -> Tensor:
        """For each answer row, int64 [N], which of the B samples it belongs to."""
        return self.answer_rows // self.labels.shape[1]

    def without_audio(self, samples: Tensor | None = None) -> "Batch":
        """The batch with the audio of the samples in `samples` (bool [B]; None: of all) removed, as if it never was.

        What remains moves together: to the beginning where answers follow, to the end where an answer is to be written.
        Hiding the positions instead would not do: to a sliding window, a convolution or a state they would still be
        there. The length S stays, in padding.
        """
        chosen = torch.ones_like(self.audio_mask[:, 0]) if samples is None else samples
        removed = self.audio_mask & chosen[:, None]
        kept = self.attention_mask.bool() & ~removed
        at_end = bool((self.labels == IGNORE).all())
        order = (kept if at_end else ~kept).to(torch.uint8).argsort(dim=1, stable=True)
        kept = kept.gather(1, order)
        per_sample = self.audio_mask.sum(1)
        queries = int(per_sample.sum()) // max(1, len(self.audio_index))
        of_audio = chosen.repeat_interleave(per_sample // max(1, queries))
        return replace(
            self,
            input_ids=self.input_ids.gather(1, order),
            attention_mask=kept.to(self.attention_mask.dtype),
            audio_mask=(self.audio_mask & ~removed).gather(1, order),
            labels=self.labels.gather(1, order),
            audio_index=self.audio_index[~of_audio],
        )

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on a device."""
        tensors: dict[str, Any] = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **{name: value.to(device, non_blocking=True) for name, value in tensors.items()})
