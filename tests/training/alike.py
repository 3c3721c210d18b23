"""Runs that compute the same steps in another order, by other ranks or in other places: how far they may lie apart."""

from collections.abc import Sequence
from pathlib import Path

import torch

from tests.tolerance import assert_close, rounding, training
from tests.training.launching import curve, weights
from tests.training.tiny import LR

FREE = 0.01
ROWS = 40  # answer tokens of a batch, at least; a loss is the mean of as many independently rounded terms
BF16_ROUNDINGS = 20  # of an activation on its way to the loss: products are summed in fp32 and rounded once


def assert_same_values(found: Sequence[float], expected: Sequence[float], terms: float, first_step: int = 1) -> None:
    """Fail unless a metric of step `first_step` and those after it is equal up to rounding, step by step.

    `terms` is the length of the sums in a forward. Losses are differences of log-probabilities of about 1 and more.
    """
    assert len(found) == len(expected)
    for step, (a, b) in enumerate(zip(found, expected, strict=True), first_step):
        assert_close(a, b, training(terms, step) / ROWS, max(1.0, abs(b)), torch.float32)


def assert_same_bf16_values(found: Sequence[float], expected: Sequence[float]) -> None:
    """Fail unless the losses of two runs in bf16 are equal as far as rounding the tiny world's activations explains."""
    assert_close(found, expected, BF16_ROUNDINGS / ROWS, max(1.0, *expected), torch.bfloat16)


def assert_same_curve(found: Path, expected: Path, metric: str, terms: float, after: int = 0) -> None:
    """Fail unless two runs have the metric of the same steps, those after step `after`, equal up to rounding."""
    a, b = (curve(out, metric) for out in (found, expected))
    b = [point for point in b if point[0] > after]
    assert [step for step, _ in a] == [step for step, _ in b]
    assert_same_values([value for _, value in a], [value for _, value in b], terms, after + 1)


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
