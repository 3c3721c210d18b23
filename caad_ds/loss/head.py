"""The LM head and its matrix product."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LMHead:
    """The last layer of a language model: `z = scale * (W h + b)`, then `softcap * tanh(z / softcap)` if it has one.

    `weight` [V, H], `bias` [V] or None; `scale` is a constant factor that some families apply to their logits (Cohere,
    Granite). Under ZeRO-3 the weight must be gathered when the head is used.
    """

    weight: Tensor
    bias: Tensor | None = None
    softcap: float | None = None
    scale: float = 1.0

    def logits(self, hidden: Tensor, memory: Tensor | None = None) -> Tensor:
        """Compute logits [..., V] of hidden states [..., H], in float32, or float64 if an input is.

        Without a gradient, `memory` [m, V] may be given for hidden states [m, H]: the product is written to it, except
        on CUDA from bfloat16.
        """
        dtype = wide_dtype(hidden, self.weight)
        z = matmul(hidden.reshape(-1, hidden.shape[-1]), self.weight.t(), dtype, memory)
        if self.bias is not None:
            z = z.add_(self.bias.to(dtype))
        if self.scale != 1:
            z = z.mul_(self.scale)
        if self.softcap is not None:
            # The difference is 0, or NaN if z is infinite, which tanh would hide.
            z = self.softcap * torch.tanh(z / self.softcap) + (z - z)
        return z.view(*hidden.shape[:-1], len(self.weight))

    def products(self, hidden: Tensor, dtype: torch.dtype) -> Tensor:
        """Compute only the product W h, without bias, scale and softcap: [m, V] in `dtype` for `hidden` [m, H]."""
        return matmul(hidden.to(self.weight.dtype), self.weight.t(), dtype)

    def first(self, vocab_size: int) -> "LMHead":
        """Return the head of the first `vocab_size` tokens, without the rest of a padded vocabulary."""
        if vocab_size == self.weight.shape[0]:
            return self
        bias = None if self.bias is None else self.bias[:vocab_size]
        return replace(self, weight=self.weight[:vocab_size], bias=bias)

    def rows(self, ids: Tensor) -> "LMHead":
        """Return a copy of the head with only the tokens `ids`, int64 [K]."""
        return replace(self, weight=self.weight[ids], bias=None if self.bias is None else self.bias[ids])

    def prepared(self, hidden: Tensor) -> "LMHead":
        """Return the head, detached, with its weight in the dtype of products with `hidden`."""
        weight = self.weight.detach()
        if not _bf16_product(hidden, weight):
            weight = weight.to(wide_dtype(hidden, weight))
        return replace(self, weight=weight, bias=None if self.bias is None else self.bias.detach())


def wide_dtype(*tensors: Tensor) -> torch.dtype:
    """Return the dtype of logits and softmax: float64 if one of the tensors is, else float32."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


class LogitsMemory:
    """Reuses the memory of a chunk's logits for the next chunk on a CPU, where fresh memory costs more than the
    arithmetic: its pages are zeroed one by one. A GPU's allocator caches memory itself."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def logits(self, name: str, head: LMHead, hidden: Tensor) -> Tensor:
        """Compute `head.logits` of [m, H] over the earlier ones of that name, which had at least as many rows."""
        held = self._held.get(name)
        z = head.logits(hidden, None if held is None else held[: len(hidden)])
        if z.device.type == "cpu":
            self._held.setdefault(name, z)
        return z


def matmul(a: Tensor, b: Tensor, dtype: torch.dtype, memory: Tensor | None = None) -> Tensor:
    """Compute `a @ b` in `dtype`, without an intermediate rounding to bfloat16 and without autocast."""
    with torch.autocast(a.device.type, enabled=False):
        if _bf16_product(a, b) and not (torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)):
            return torch.mm(a, b, out_dtype=dtype)
        return torch.mm(a.to(dtype), b.to(dtype), out=memory)


def _bf16_product(a: Tensor, b: Tensor) -> bool:
    # Only CUDA multiplies bfloat16 matrices to a float32 result; elsewhere the factors are cast first.
    return a.is_cuda and a.dtype == b.dtype == torch.bfloat16
