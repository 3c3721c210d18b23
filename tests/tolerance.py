"""How far correct results may lie apart; every numeric comparison of the tests takes its bound from here.

Rounding: with u = eps / 2, the error of a chain of n rounded operations is below LAMBDA * sqrt(n) * u times the sum of
the magnitudes involved, with a probability that LAMBDA brings close to 1 (Higham and Mary, "A New Approach to
Probabilistic Rounding Error Analysis", SIAM J. Sci. Comput. 41, 2019, theorem 2.4). n is the length of the sums from
input to result. The order of a sum, and with it the error, differs between CPUs, numbers of threads and batch sizes;
the bound does not. LAMBDA also covers what a layer adds to the errors that reach it; a wrong result is orders of
magnitude beyond. Results of a few float64 operations are compared by pytest.approx.

Sampling: SIGMAS standard deviations of a share of independent draws.

Audio: LEAST_BIT is one step of 16-bit PCM.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

LAMBDA = 4
SIGMAS = 5
LEAST_BIT = 2.0**-15


def rounding(terms: float, magnitude: float, dtype: torch.dtype = torch.float32) -> float:
    """Return the largest difference that rounding explains between two computations of one result.

    Args:
        terms: length of the sums from input to result, in one of the two.
        magnitude: of what is summed; where nothing cancels that is the result's own.
        dtype: of the arithmetic.
    """
    return LAMBDA * torch.finfo(dtype).eps * terms**0.5 * magnitude


def decibels(terms: float) -> float:
    """Return the largest difference that rounding explains between ratios of energies of `terms` samples, in dB."""
    return 10 / np.log(10) * rounding(terms, 1.0)


def assert_close(
    found: Any, expected: Any, terms: float, magnitude: float | None = None, dtype: torch.dtype | None = None
) -> None:
    """Fail unless two tensors, arrays, lists or numbers are equal up to `rounding(terms, magnitude, dtype)`.

    `magnitude` defaults to the largest one of `expected`, `dtype` to that of `found`, or float32 where it has none.
    """
    if dtype is None:
        dtype = found.dtype if isinstance(found, Tensor) else torch.float32
    found, expected = (torch.as_tensor(x).detach().cpu().double() for x in (found, expected))
    assert found.shape == expected.shape, f"shapes {tuple(found.shape)} and {tuple(expected.shape)}"
    if not found.numel():
        return
    limit = rounding(terms, expected.abs().max().item() if magnitude is None else magnitude, dtype)
    difference = (found - expected).abs().max().item()
    assert difference <= limit, f"{difference:.3g} apart, {limit:.3g} is allowed (largest {expected.abs().max():.3g})"


def path(*modules: nn.Module, positions: int) -> int:
    """Return an upper bound of the length of the sums through `modules`, for `positions` positions or frames.

    Each weight matrix sums over its inputs; attention, whose sums run over positions, has more than one matrix for each
    of its products.
    """
    matrices = [w for module in modules for w in module.parameters() if w.dim() > 1]
    return sum(w[0].numel() + positions for w in matrices)


def training(terms: float, steps: int) -> float:
    """Return the length of the sums after `steps` optimizer steps of a model whose forward has `terms`.

    A step adds a forward and a backward, which has the products for inputs and for weights.
    """
    return 3 * terms * steps


def sampling(draws: int, *shares: float) -> float:
    """Return the largest difference of observed shares from these expected ones in independent draws."""
    return SIGMAS * (max(share * (1 - share) for share in shares) / draws) ** 0.5
