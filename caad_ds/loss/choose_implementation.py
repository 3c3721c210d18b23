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
        reason = kernel_lacks("triton", objective) or (None if _has_triton() else "Triton is not installed")
        return ("chunked", reason) if reason else ("triton", "")
    if device != "cpu":
        return "chunked", f"there is no kernel for {device}"
    reason = kernel_lacks("native", objective, *heads) or c_kernel.unavailable()
    return ("chunked", reason) if reason else ("native", "")


def kernel_lacks(kernel: str, objective: Objective, *heads: LMHead | None) -> str | None:
    """Describe what a kernel, "triton" or "native", lacks for an objective and its heads; None if nothing."""
    if kernel not in objective.divergence.kernels:
        return f"{kernel} has no divergence {objective.divergence.name}"
    if kernel == "triton":
        return None
    if objective.plausibility is not None:
        return "native has no plausibility"
    return "native has no softcap" if any(head is not None and head.softcap is not None for head in heads) else None


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None
