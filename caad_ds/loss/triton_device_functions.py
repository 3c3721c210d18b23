"""Shared parts of the loss's Triton kernels: a block of a row's logits, and maxima and sums of a sweep over blocks."""

import math

import triton
import triton.language as tl

from caad_ds.loss import objective as objective_module

LOG2_E = tl.constexpr(math.log2(math.e))
LN_2 = tl.constexpr(math.log(2))
NEVER = tl.constexpr(objective_module.NEVER)


@triton.jit
def capped(z, cap):
    """Compute cap * tanh(z / cap) from exp(-2|x|), which cannot overflow; near 0, where that cancels, by its series."""
    x = z / cap
    square = x * x
    series = x * (1 - square * (1 / 3 - square * (2 / 15 - square * (17 / 315))))
    small = tl.exp(-2 * tl.abs(x))
    size = (1 - small) / (1 + small)
    return cap * tl.where(tl.abs(x) < 0.15, series, tl.where(x < 0, -size, size))


@triton.jit
def logits(z, bias, scale, cap, row, vocab, cols, BIAS: tl.constexpr, CAP: tl.constexpr):
    """Load a block of a row's logits in float32, with bias, scale and softcap."""
    inside = cols < vocab
    value = tl.load(z + row * vocab + cols, mask=inside, other=NEVER).to(tl.float32)
    if BIAS:
        value += tl.load(bias + cols, mask=inside, other=0.0).to(tl.float32)
    value *= scale
    if CAP:
        # The difference is 0, or NaN if the value is infinite, which tanh would hide.
        value = tl.where(inside, capped(value, cap) + (value - value), NEVER)
    return value


@triton.jit
def grow(peak, total, z, scale):
    """Add a block to each lane's sum of exp2((z - maximum) * scale); the maximum becomes max(peak, z).

    Of the factors that rescale the old sum and the new term to the new maximum, one is always 1.
    """
    above = z - peak
    factor = tl.exp2(-tl.abs(above) * scale)
    return tl.where(above > 0, total * factor + 1, total + factor)


@triton.jit
def join(peak, total, scale):
    """Return the maximum over the lanes, and the logarithm of their sums rescaled to it."""
    top = tl.max(peak, 0)
    return top, tl.log2(tl.sum(total * tl.exp2((peak - top) * scale), 0))
