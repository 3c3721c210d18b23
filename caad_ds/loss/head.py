"""The LM head and its matrix product."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LMHead:
    """The last layer of a language model: `z = scale * (W h + b)`, then `softcap * tanh(z / softcap)` where it has one.

    `weight` [V, H], `bias` [V] or None; `scale` is a constant factor that some families apply to their logits (Cohere,
    Granite). Under ZeRO-3 the weight has to be gathered when the head is used.
    """

    weight: Tensor
    bias: Tensor | None = None
    softcap: float | None = None
    scale: float = 1.0

    def logits(self, hidden: Tensor, memory: Tensor | None = None) -> Tensor:
        """Logits [..., V] of hidden states [..., H], float32, or float64 where an input is.

        `memory` [m, V] may be given for hidden states [m, H] where no gradient is asked for: the product is made in it,
        but on CUDA from bfloat16.
        """
        dtype = wide_dtype(hidden, self.weight)
        z = matmul(hidden.reshape(-1, hidden.shape[-1]), self.weight.t(), dtype, memory)
        if self.bias is not None:
            z = z.add_(self.bias.to(dtype))
        if self.scale != 1:
            z = z.mul_(self.scale)
        if self.softcap is not None:
            # The difference is 0, or NaN where z is infinite, which the tangent would hide.
            z = self.softcap * torch.tanh(z / self.softcap) + (z - z)
        return z.view(*hidden.shape[:-1], len(self.weight))

    def products(self, hidden: Tensor, dtype: torch.dtype) -> Tensor:
        """The matrix product alone, W h without bias, scale and softcap: [m, V] in `dtype` for `hidden` [m, H]."""
        return matmul(hidden.to(self.weight.dtype), self.weight.t(), dtype)

    def first(self, vocab_size: int) -> "LMHead":
        """The head of the first `vocab_size` tokens; the rest of a padded vocabulary is cut off."""
        if vocab_size == self.weight.shape[0]:
            return self
        bias = None if self.bias is None else self.bias[:vocab_size]
        return replace(self, weight=self.weight[:vocab_size], bias=bias)

    def rows(self, ids: Tensor) -> "LMHead":
        """The head of the tokens `ids`, int64 [K], which is a copy."""
        return replace(self, weight=self.weight[ids], bias=None if self.bias is None else self.bias[ids])

    def prepared(self, hidden: Tensor) -> "LMHead":
        """The head with its weight already in the dtype that products with `hidden` use, detached."""
        weight = self.weight.detach()
        if not _bf16_product(hidden, weight):
            weight = weight.to(wide_dtype(hidden, weight))
        return replace(self, weight=weight, bias=None if self.bias is None else self.bias.detach())


def wide_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 if one of the tensors is, else float32: the dtype of logits and softmax."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


class LogitsMemory:
    """Holds the logits of one chunk for the next to be made in, on a CPU, where fresh memory of that size costs more
    than the arithmetic: its pages are zeroed one by one. A GPU's allocator keeps memory at hand by itself."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def logits(self, name: str, head: LMHead, hidden: Tensor) -> Tensor:
        """`head.logits` of [m, H], over the earlier ones of that name, which had as many rows or more."""
        held = self._held.get(name)
        z = head.logits(hidden, None if held is None else held[: len(hidden)])
        if z.device.type == "cpu":
            self._held.setdefault(name, z)
        return z


def matmul(a: Tensor, b: Tensor, dtype: torch.dtype, memory: Tensor | None = None) -> Tensor:
    """`a @ b` returned in `dtype`, without a rounding to bfloat16 on the way to a wider one, untouched by autocast."""
    with torch.autocast(a.device.type, enabled=False):
        if _bf16_product(a, b) and not (torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)):
            return torch.mm(a, b, out_dtype=dtype)
        return torch.mm(a.to(dtype), b.to(dtype), out=memory)


def _bf16_product(a: Tensor, b: Tensor) -> bool:
    # Only CUDA multiplies bfloat16 matrices into a float32 result; elsewhere the factors are widened.
    return a.is_cuda and a.dtype == b.dtype == torch.bfloat16
