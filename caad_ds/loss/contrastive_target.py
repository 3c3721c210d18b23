"""The contrastive target, of logits or of hidden states."""

import torch
from torch import Tensor

from caad_ds.loss.head import LMHead


def contrast(positive: Tensor, negative: Tensor, alpha: float | Tensor) -> Tensor:
    """Compute `(1 + alpha) * positive - alpha * negative` of logits or, for a linear head, of hidden states [N, ...].

    `alpha` is one number, or one per row, [N]. Computed in at least float32, as positive + alpha * (positive -
    negative), and rounded once to the inputs' dtype. Source: CAAD, the contrastive teacher logits z_c.
    """
    if not isinstance(alpha, Tensor):
        return torch.lerp(negative, positive, 1 + alpha)
    # A tensor weight must have the dtype of the others, and bfloat16 would round it.
    wide = torch.promote_types(positive.dtype, torch.float32)
    weight = 1 + alpha.to(wide).view(-1, *[1] * (positive.dim() - 1))
    return torch.lerp(negative.to(wide), positive.to(wide), weight).to(positive.dtype)


def hidden_contrast(positive: Tensor, negative: Tensor, alpha: float | Tensor, head: LMHead) -> Tensor:
    """Return hidden states whose product with a linear head is z_c, in that product's dtype (method.md, identity 1)."""
    return contrast(positive.to(head.weight.dtype), negative.to(head.weight.dtype), alpha)
