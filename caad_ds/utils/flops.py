"""Count floating-point operations: matrix products, convolutions and attention, as PyTorch counts them."""

from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

KERNELS = ("flash_attention", "efficient_attention", "cudnn_attention", "flash_attention_for_cpu")


class _NoTracker:
    """A tracker of modules for a count of the total alone.

    PyTorch's puts hooks on what modules return. With gradient checkpointing these keep what the backward recomputes of
    all layers, whose memory checkpointing is to save.
    """

    parents = frozenset({"Global"})

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


def flop_counter() -> FlopCounterMode:
    """Return a context whose `get_total_flops()` counts what ran inside; nothing is counted by module.

    PyTorch's own counter ignores attention on a CPU and, before 2.13, fails on grouped queries.
    """
    aten = torch.ops.aten
    forward = {getattr(aten, f"_scaled_dot_product_{kernel}"): _attention for kernel in KERNELS}
    backward = {getattr(aten, f"_scaled_dot_product_{kernel}_backward"): _attention_backward for kernel in KERNELS}
    counter = FlopCounterMode(display=False, custom_mapping=forward | backward)
    tracker: Any = _NoTracker()
    counter.mod_tracker = tracker
    return counter


def _attention(query: tuple, key: tuple, value: tuple, *_: object, **__: object) -> int:
    """Count scores and output, whose shapes are [..., heads of the queries, length, width]."""
    return 2 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _attention_backward(grad: tuple, query: tuple, key: tuple, value: tuple, *_: object, **__: object) -> int:
    """Count the recomputed scores and the gradients of scores, values, queries and keys."""
    return 2 * prod(query[:-1]) * key[-2] * (3 * query[-1] + 2 * value[-1])
