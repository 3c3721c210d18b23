"""A few numbers per answer row from the teacher's two paths, including the text-certainty gate's entropy."""

import math

import torch
from torch import Tensor

from caad_ds.loss.alpha_gate import gated_alpha, tile_rows
from caad_ds.loss.argument_checks import check_head, check_kind, check_precision, check_rows, require
from caad_ds.loss.chunked import chunk_rows
from caad_ds.loss.head import LMHead, LogitsMemory, wide_dtype

__all__ = ["SCALARS", "gated_alpha", "log_ratio", "teacher_scalars"]

SCALARS = ("p_pos", "p_neg", "entropy_pos", "entropy_neg", "jsd")


@torch.no_grad()
def teacher_scalars(
    teacher_pos: Tensor, teacher_neg: Tensor | None, head: LMHead, labels: Tensor, vocab_size: int | None = None
) -> Tensor:
    """Compute scalars of N answer rows, float32 [N, 5] in the order of SCALARS, all at temperature 1.

    The probabilities of the answer's tokens with and without the audio, the entropies of the two distributions, and
    their Jensen-Shannon divergence with weights 1/2; the last three in nats. In chunks of rows, like the loss.

    Args:
        teacher_pos: [N, Ht], the teacher's hidden states with the audio.
        teacher_neg: [N, Ht], those without; None: p_neg, entropy_neg and jsd are NaN.
        head: the teacher's.
        labels: int64 [N], the answer's tokens; on a GPU, where they are not checked, one outside the vocabulary has
            probabilities of NaN.
        vocab_size: the distributions are over the first `vocab_size` tokens.

    Raises:
        ValueError: naming the argument, its value and what was expected.
    """
    check_head("head", head, "teacher_pos", teacher_pos, None, vocab_size)
    if teacher_neg is not None:
        require(isinstance(teacher_neg, Tensor), "teacher_neg", type(teacher_neg).__name__, "a tensor as teacher_pos")
        expected = f"{tuple(teacher_pos.shape)} as teacher_pos"
        require(teacher_neg.shape == teacher_pos.shape, "teacher_neg.shape", tuple(teacher_neg.shape), expected)
        check_kind("teacher_neg", teacher_neg, teacher_pos.device)
    check_precision({"teacher_pos": teacher_pos, "teacher_neg": teacher_neg, "head.weight": head.weight})
    check_rows("labels", labels, teacher_pos, "teacher_pos")
    head = head.first(vocab_size or len(head.weight))
    vocab = len(head.weight)
    known = (labels >= 0) & (labels < vocab)
    if labels.device.type == "cpu" and not known.all():
        raise ValueError(f"labels holds {int(labels[~known][0])}, expected 0 to {vocab - 1}")
    head, memory = head.prepared(teacher_pos), LogitsMemory()
    index = labels.where(known, 0).unsqueeze(-1)
    step = chunk_rows(head.weight, wide_dtype(teacher_pos, head.weight))
    parts = []
    for start in range(0, len(labels), step):
        chunk = slice(start, start + step)
        z_pos = memory.logits("positive", head, teacher_pos[chunk])
        z_neg = None if teacher_neg is None else memory.logits("negative", head, teacher_neg[chunk])
        rows = tile_rows(z_pos)
        for first in range(0, len(z_pos), rows):
            tile = slice(first, first + rows)
            negative = None if z_neg is None else z_neg[tile]
            parts.append(_scalars(z_pos[tile], negative, index[chunk][tile]))
    scalars = torch.cat(parts) if parts else teacher_pos.new_empty(0, len(SCALARS))
    scalars[:, :2].masked_fill_(~known.unsqueeze(-1), math.nan)
    return scalars.float()


def log_ratio(scalars: Tensor) -> Tensor:
    """Return log p_pos - log p_neg of the answer's tokens, float32 [N], from scalars [N, 5]; NaN without a path."""
    p_pos, p_neg = (scalars[:, SCALARS.index(name)] for name in ("p_pos", "p_neg"))
    tiny = torch.finfo(scalars.dtype).tiny  # an underflowed probability must not become -inf
    return p_pos.clamp_min(tiny).log() - p_neg.clamp_min(tiny).log()


def _scalars(z_pos: Tensor, z_neg: Tensor | None, index: Tensor) -> Tensor:
    """Compute the scalars of one tile, [m, 5] in the dtype of the logits."""
    log_pos = torch.log_softmax(z_pos, dim=-1)
    p_pos = log_pos.exp()
    at_pos, entropy_pos = p_pos.gather(-1, index).squeeze(-1), -torch.linalg.vecdot(p_pos, log_pos)
    if z_neg is None:
        nothing = torch.full_like(at_pos, math.nan)
        return torch.stack([at_pos, nothing, entropy_pos, nothing, nothing], dim=-1)
    log_neg = torch.log_softmax(z_neg, dim=-1)
    p_neg = log_neg.exp()
    at_neg, entropy_neg = p_neg.gather(-1, index).squeeze(-1), -torch.linalg.vecdot(p_neg, log_neg)
    log_m = torch.logaddexp(log_pos, log_neg).sub_(math.log(2))
    # Summed separately: the difference of entropies would cancel if the two are close.
    jsd = (torch.linalg.vecdot(p_pos, log_pos.sub_(log_m)) + torch.linalg.vecdot(p_neg, log_neg.sub_(log_m))) / 2
    return torch.stack([at_pos, at_neg, entropy_pos, entropy_neg, jsd.clamp_min(0)], dim=-1)
