"""The text-certainty gate: an alpha per row, from the teacher's distribution without the audio.

    alpha_n = alpha * max(0, 1 - H(p_neg) / log m),  p_neg = softmax(z_neg), H in nats

Contrast only where the text alone is certain: alpha if p_neg is one token, 0 (standard KD) from the entropy of m
equally likely tokens on. Experimental.
"""

import math
from numbers import Real

import torch
from torch import Tensor

ALPHA_GATES = ("none", "text_certainty")
TILE = 2**17  # logits whose arithmetic stays in a core's cache


def is_gate_m(m: object) -> bool:
    """Return whether a value may be the gate's m, a finite number above 1."""
    return isinstance(m, Real) and 1 < float(m) < math.inf


def gated_alpha(entropy_neg: Tensor, alpha: float, m: float) -> Tensor:
    """Compute alpha_n of the gate [...] from entropies in nats; NaN for NaN."""
    return alpha * (1 - entropy_neg / math.log(m)).clamp_min(0)


def entropies(z: Tensor) -> Tensor:
    """Compute the entropy in nats of softmax(z), [N], for finite logits [N, V]; NaN for rows that are not finite.

    In tiles of rows, which on a CPU need memory for only a few [tile, V] tensors.
    """
    return torch.cat([_entropies(tile) for tile in z.split(tile_rows(z))])


def tile_rows(z: Tensor) -> int:
    """Return the number of rows of logits [m, V] in a tile: on a CPU those that stay in a core's cache, elsewhere all.

    A GPU gains nothing from tiles: each would launch all kernels once more.
    """
    return max(1, TILE // z.shape[1] if z.device.type == "cpu" else len(z))


def _entropies(z: Tensor) -> Tensor:
    log_p = torch.log_softmax(z, dim=-1)
    return -torch.linalg.vecdot(log_p.exp(), log_p)
