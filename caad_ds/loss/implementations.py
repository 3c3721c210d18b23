"""Choose the implementation of the loss: the device's kernel if it supports the objective, else PyTorch."""

from functools import cache
from importlib.util import find_spec

import torch

from caad_ds.loss import c_kernel
from caad_ds.loss.head import LMHead
from caad_ds.loss.objective import Objective

IMPLEMENTATIONS = ("auto", "chunked", "native", "triton", "reference")


def fastest(objective: Objective, device: str, dtype: torch.dtype, *heads: LMHead | None) -> tuple[str, str]:
    """Return the implementation that "auto" takes on a device type, and for "chunked" why no kernel is used.

    `dtype` is that of the softmax.
    """
    if dtype == torch.float64:
        return "chunked", "kernels compute no float64"
    if device == "cuda":
        reason = triton_lacks(objective) or (None if _has_triton() else "Triton is not installed")
        return ("chunked", reason) if reason else ("triton", "")
    if device != "cpu":
        return "chunked", f"there is no kernel for {device}"
    reason = native_lacks(objective, *heads) or c_kernel.unavailable()
    return ("chunked", reason) if reason else ("native", "")


def triton_lacks(objective: Objective) -> str | None:
    """Describe what the Triton kernel lacks for an objective; None if nothing."""
    divergence = objective.divergence
    return None if "triton" in divergence.kernels else f"triton has no divergence {divergence.name}"


def native_lacks(objective: Objective, *heads: LMHead | None) -> str | None:
    """Describe what the C loop lacks for an objective and its heads; None if nothing."""
    lacking = c_kernel.missing(objective, *heads)
    return lacking and f"native has no {lacking}"


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None
