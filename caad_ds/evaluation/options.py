"""Which option's statement a teacher finds likeliest, teacher-forced, with audio, without, and under the contrast."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from caad_ds.data.batch import Batch
from caad_ds.distill.negatives import Negative, embed_without_audio
from caad_ds.evaluation.inference import Loaded
from caad_ds.evaluation.items import Item
from caad_ds.loss.objective import contrast
from caad_ds.models.states import AudioStates


@dataclass(frozen=True)
class Signal:
    """Logits of the teacher: z_pos (no negative), z_neg (no alpha), or z_c = (1 + alpha) z_pos - alpha z_neg."""

    negative: str | None = None
    alpha: float | None = None

    @property
    def name(self) -> str:
        """How tables call it."""
        if self.negative is None:
            return "z_pos"
        return f"z_neg {self.negative}" if self.alpha is None else f"z_c {self.negative} {self.alpha:g}"


@torch.no_grad()
def log_likelihoods(
    loaded: Loaded,
    items: Sequence[Item],
    states: AudioStates,
    statements: Sequence[str],
    negatives: Sequence[Negative],
    alphas: Sequence[float],
) -> dict[Signal, np.ndarray]:
    """log p(statement | prompt), float64 [items, options], under every signal.

    `states` holds the different audios of the items. The likelihood of a statement is that of its tokens and its end,
    each under log_softmax(z) at its position.
    """
    batch = loaded.answered([item for item in items for _ in statements], [*statements] * len(items))
    model = loaded.model
    head = model.head()
    z_pos = head.logits(model.backbone(model.embed(batch, states)))
    found = {Signal(): _of_answers(z_pos, batch)}
    for negative in negatives:
        z_neg = head.logits(model.backbone(embed_without_audio(model, batch, negative)))
        found[Signal(negative.name)] = _of_answers(z_neg, batch)
        for alpha in alphas:
            found[Signal(negative.name, alpha)] = _of_answers(contrast(z_pos, z_neg, alpha), batch)
    return {signal: values.view(len(items), -1).cpu().double().numpy() for signal, values in found.items()}


def _of_answers(z: Tensor, batch: Batch) -> Tensor:
    """Summed log-probability of each sample's answer, [B], from logits [N, V] at the answer rows."""
    tokens = torch.log_softmax(z, dim=-1).gather(-1, batch.targets[:, None]).squeeze(-1)
    return tokens.new_zeros(len(batch.keys)).index_add(0, batch.sample_of_row, tokens)


def entropy(log_likelihood: np.ndarray) -> np.ndarray:
    """Entropy in nats, [items], of the options given that one of them is said, from [items, options]."""
    shifted = log_likelihood - log_likelihood.max(-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return -(np.exp(log_p) * log_p).sum(-1)
