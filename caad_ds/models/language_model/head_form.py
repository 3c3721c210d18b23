"""Measure how a causal LM transforms its head's product: a constant factor and a soft cap; others are refused."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from caad_ds.loss.head import LMHead
from caad_ds.utils.errors import UserError

ROWS = 2**14  # of the head's weight at a time: the whole weight in float32 may not fit
# Sizes of the largest logit at which the head is probed: a cap is invisible below, curved around and flat above it.
QUIET, USUAL, LOUD = 2.0**-10, 2.0**5, 2.0**16
OTHER = "its logits are not its head's product up to a constant factor and a soft cap"


@dataclass(frozen=True)
class HeadForm:
    """Logits are `scale * (W h + b)`, then soft-capped if `softcap` is not None."""

    scale: float = 1.0
    softcap: float | None = None


def measured_form(llm: PreTrainedModel, hidden: Tensor, forward: Callable[[], Tensor]) -> HeadForm:
    """Return the form that maps final states `hidden` [T, H] to the LM's own logits, [1, T, V] of `forward()`.

    The head gets its input at several scales in one forward: random weights give logits too small to show a soft cap.

    Raises:
        UserError: there is no such form.
    """
    layer: Any = llm.get_output_embeddings()
    head = LMHead(layer.weight, getattr(layer, "bias", None))
    if head.weight.dim() != 2 or head.weight.shape[1] != hidden.shape[-1]:
        shape = tuple(head.weight.shape)
        raise UserError(f"its head of shape {shape} does not take its final states of width {hidden.shape[-1]}")
    bare = _product(head.weight, hidden)  # computed once: on a CPU, casting a weight takes longer than a layer
    bias = bare.new_zeros(1) if head.bias is None else head.bias.to(bare.dtype)
    largest = (bare + bias).abs().max().item()
    if not 0 < largest < math.inf:
        raise UserError("its logits of a few tokens are 0 or not finite")
    # float16 ends at 65504, for the head's input and for its product times the factor.
    loud = min(LOUD, torch.finfo(layer.weight.dtype).max / 32 / max(1.0, hidden.abs().max().item() / largest))
    sizes = [2.0 ** round(math.log2(size / largest)) for size in (QUIET, USUAL, loud)]  # exact in every dtype
    own = _own_logits(layer, sizes, forward)
    product = torch.stack([size * bare + bias for size in sizes])
    if own.shape != product.shape:
        raise UserError(f"{OTHER}: they have the shape {tuple(own.shape[1:])}, not {tuple(product.shape[1:])}")
    rounding = torch.finfo(layer.weight.dtype).eps
    form = _fitted(llm, own, product, rounding)
    # Per element: a sum of H products, each of the usual size of a logit, in float32 and rounded to the weights' dtype.
    usual = hidden.float().norm(dim=-1)[:, None] * _row_norms(head.weight) * bare.new_tensor(sizes)[:, None, None]
    usual = form.scale * (usual + bias.abs())
    expected = _applied(form, product)
    few = usual / math.sqrt(hidden.shape[-1])
    error = 8 * rounding * ((form.scale * product).abs() + few) + 8 * torch.finfo(torch.float32).eps * usual
    if not ((own - expected).abs() <= error).all():
        raise UserError(OTHER)
    return form


def multiply_logits(llm: PreTrainedModel, factor: float) -> None:
    """Multiply the head's product by `factor` from now on, in the model's forward and in `generate`."""
    layer: Any = llm.get_output_embeddings()
    layer.register_forward_hook(lambda _, inputs, product: product * factor)


def _own_logits(layer: nn.Module, sizes: list[float], forward: Callable[[], Tensor]) -> Tensor:
    """Return the model's logits, float32 [sizes, T, V], with its head's input multiplied by each of `sizes`."""
    fed = []

    def louder(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        fed.append(inputs[0])
        return torch.cat([inputs[0] * size for size in sizes]), *inputs[1:]

    with layer.register_forward_pre_hook(louder):
        logits = forward().float()
    if len(fed) != 1:
        raise UserError(f"its forward runs its head {len(fed)} times, not once")
    return logits


def _fitted(llm: PreTrainedModel, own: Tensor, product: Tensor, rounding: float) -> HeadForm:
    """Fit the factor by least squares on small logits, and the cap on large ones."""
    quiet, loud = product[0].double(), product[-1].abs().max().item()
    scale = ((own[0].double() * quiet).sum() / quiet.square().sum()).item()
    if not 0 < scale < math.inf:
        raise UserError(OTHER)
    near = max(1e-5, 8 * rounding / math.sqrt(quiet.numel()))
    scale = _exact(llm, scale, near)
    top = own[-1].abs().max().item()
    return HeadForm(scale, _exact(llm, top, 2 * rounding) if top < 0.9 * scale * loud else None)


def _exact(llm: PreTrainedModel, measured: float, near: float) -> float:
    """Return 1 or the number in the config (or its inverse) that equals `measured` up to rounding; else `measured`."""
    candidates = [1.0, *_numbers(llm.config), *_numbers(llm.config.get_text_config(decoder=True))]
    candidates += [1 / number for number in candidates]
    best = min(candidates, key=lambda number: (abs(number / measured - 1), number != 1))
    return best if abs(best / measured - 1) <= near else measured


def _numbers(config: Any) -> Iterator[float]:
    for value in vars(config).values():
        if isinstance(value, Real) and not isinstance(value, bool) and 0 < float(value) < math.inf:
            yield float(value)


def _product(weight: Tensor, hidden: Tensor) -> Tensor:
    """Compute W h, float32 [T, V], in blocks of the weight's rows."""
    starts = range(0, len(weight), ROWS)
    return torch.cat([LMHead(weight[start : start + ROWS]).logits(hidden) for start in starts], dim=-1)


def _row_norms(weight: Tensor) -> Tensor:
    return torch.cat([weight[start : start + ROWS].float().norm(dim=-1) for start in range(0, len(weight), ROWS)])


def _applied(form: HeadForm, product: Tensor) -> Tensor:
    z = form.scale * product
    return z if form.softcap is None else form.softcap * torch.tanh(z / form.softcap)
