"""Runs that compute the same steps in another order, by other ranks or in other places: how far they may lie apart."""

from collections.abc import Sequence
from pathlib import Path

import torch

from tests.tolerance import assert_close, rounding, training
from tests.training.launching import curve, weights
from tests.training.tiny import LR

FREE = 0.01
CURVES = ("train/kd", "train/ce", "train/grad_norm")  # AdamW forgives a wrong scale of the gradient
ROWS = 40  # answer tokens of a batch, at least; a loss is the mean of as many independently rounded terms
BF16_ROUNDINGS = 20  # of an activation on its way to the loss: products are summed in fp32 and rounded once


def assert_same_bf16_values(found: Sequence[float], expected: Sequence[float]) -> None:
    """Fail unless metrics of two runs in bf16 are equal as far as rounding the tiny world's activations explains."""
    assert_close(found, expected, BF16_ROUNDINGS / ROWS, max(1.0, *expected), torch.bfloat16)


def assert_same_curves(found: Path, expected: Path, terms: float, after: int = 0) -> None:
    """Fail unless two runs have the same losses and gradient norms, up to rounding, in the steps after step `after`.

    `terms` is the length of the sums in a forward. Losses are differences of log-probabilities of about 1 and more.
    """
    for metric in CURVES:
        a, b = curve(found, metric), [point for point in curve(expected, metric) if point[0] > after]
        assert [step for step, _ in a] == [step for step, _ in b]
        for (step, value), (_, other) in zip(a, b, strict=True):
            assert_close(value, other, training(terms, step) / ROWS, max(1.0, abs(other)), torch.float32)


def assert_same_weights(found: Path, expected: Path, terms: float, steps: int, lr: float = LR) -> None:
    """Fail unless two finished models have equal weights up to what rounding does to AdamW.

    AdamW moves each weight by at most about `lr` a step, whatever the size of its gradient: weights whose gradient is
    rounding alone may go anywhere within that, and they are few. The others differ by a share of their way.
    """
    a, b = weights(found), weights(expected)
    assert a.keys() == b.keys()
    apart = torch.cat([(a[name].double() - b[name].double()).abs().flatten() for name in b])
    way = lr * steps
    assert apart.max() <= 2 * way
    beyond = (apart > rounding(training(terms, steps), way)).double().mean().item()
    assert beyond <= FREE, f"{beyond:.1%} of the weights differ by more than rounding explains"
