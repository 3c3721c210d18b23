"""Run code for shapes only: floats on the meta device, integers and masks computed on the CPU.

Plain meta tensors cannot run a forward that depends on masks and lengths. Here integer and boolean tensors stay on the
CPU and are computed, so such a forward takes its real path; float tensors have only shapes. The bytes of their storages
are summed.
"""

import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only

aten = torch.ops.aten
ALIASED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)  # they take booleans as indices
META, CPU = torch.device("meta"), torch.device("cpu")


class ShapeRun(TorchDispatchMode):
    """A context; `live` and `peak` are the current and the most bytes held by tensors that were made inside it.

    `weights` exist before; they and their views are not counted.
    """

    def __init__(self, weights: Iterable[Tensor] = ()):
        super().__init__()
        self.live = self.peak = 0
        self._held: dict[int, Any] = {_storage(weight): None for weight in weights}

    def restart(self) -> None:
        """Reset the peak."""
        self.peak = self.live

    def __enter__(self) -> "ShapeRun":
        # Patched by name, as models call it: a mode for torch functions is not active while a backward recomputes.
        self._replaced = F.scaled_dot_product_attention
        F.scaled_dot_product_attention = partial(_attention, self._replaced)  # type: ignore[assignment]
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        F.scaled_dot_product_attention = self._replaced

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: Mapping | None = None) -> Any:
        given = dict(kwargs or {})
        tensors = [each for each in tree_iter((args, given)) if isinstance(each, Tensor)]
        on_meta = any(tensor.is_meta for tensor in tensors)
        if given.get("device") is not None and torch.device(given["device"]).type == "meta" and not on_meta:
            dtype = given.get("dtype") or (tensors[0].dtype if tensors else None)
            if (dtype is None and "arange" in str(func)) or (dtype is not None and not dtype.is_floating_point):
                given["device"] = CPU
        if on_meta and not all(tensor.is_meta for tensor in tensors):
            if func in ALIASED:
                args = (args[0], _numbers(args[1]), *args[2:])
            args, given = tree_map_only(Tensor, lambda tensor: tensor.to(META), (args, given))
        out = func(*args, **given)
        for each in tree_iter(out):
            if isinstance(each, Tensor):
                self._hold(each)
        return out

    def _hold(self, tensor: Tensor) -> None:
        key = _storage(tensor)
        if key in self._held:
            return
        size = tensor.untyped_storage().nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)

        def released(_: Any) -> None:
            self.live -= size
            self._held.pop(key, None)

        self._held[key] = weakref.ref(tensor.untyped_storage(), released)


def _attention(
    computed: Callable[..., Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **grouped: bool,
) -> Tensor:
    """Compute attention like fused kernels, without keeping scores or repeating grouped keys and values; PyTorch has
    none of them on the meta device."""
    if not query.is_meta:
        return computed(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **grouped)
    if attn_mask is not None and not attn_mask.dtype.is_floating_point:
        attn_mask = torch.empty(attn_mask.shape, dtype=query.dtype, device=META)
    batch = torch.broadcast_shapes(*(each.shape[:-3] for each in (query, key, value)))
    query, key, value = (each.expand(*batch, *each.shape[-3:]) for each in (query, key, value))
    fused = aten._scaled_dot_product_flash_attention_for_cpu
    return fused(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _numbers(indices: Iterable[Tensor | None]) -> list[Tensor | None]:
    """Replace masks among indices by the indices of their true elements."""
    numbers: list[Tensor | None] = []
    for index in indices:
        numbers += index.nonzero().unbind(1) if index is not None and index.dtype == torch.bool else [index]
    return numbers
