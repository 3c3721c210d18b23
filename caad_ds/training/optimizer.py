"""The optimizer of the student's engine, which skips steps whose gradient is not finite.

DeepSpeed's ZeRO optimizers (from 0.19.8 on) skip a step whose global gradient norm is not finite, on all ranks, since
the norm is reduced over them. This adds the cases that they do not cover.
"""

from collections.abc import Iterable
from typing import Any

import torch
from deepspeed.accelerator import get_accelerator
from torch import nn

from caad_ds.config.schema import OptimizerSection


class ClippedAdamW(torch.optim.AdamW):
    """AdamW that clips gradients itself and skips a step whose gradient norm is not finite.

    For ZeRO stage 0 in fp32, where DeepSpeed steps the optimizer directly and checks nothing. DeepSpeed reads
    `overflow` and `_global_grad_norm` after each step.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], max_norm: float, **options: Any):
        super().__init__(parameters, **options)
        self.max_norm = max_norm
        self.overflow = False
        self._global_grad_norm: torch.Tensor | None = None

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Step or skip; gradients are the same on all ranks, and so is the decision."""
        parameters = [p for group in self.param_groups for p in group["params"]]
        self._global_grad_norm = nn.utils.clip_grad_norm_(parameters, self.max_norm)
        self.overflow = not bool(self._global_grad_norm.isfinite())
        if not self.overflow:
            super().step()


def adamw(
    trainable: list[nn.Parameter], section: OptimizerSection, settings: dict, precision: str
) -> torch.optim.AdamW:
    """Build AdamW for the engine of `settings`; it takes over the clipping where DeepSpeed does none."""
    zero = settings.get("zero_optimization", {})
    # On a CPU, where the optimizer also steps if its states are in host memory, fused is several times as fast.
    # DeepSpeed's own counts its steps outside of its state: a resumed run would round differently.
    on_cpu = "offload_optimizer" in zero or get_accelerator().device_name() == "cpu"
    options: dict[str, Any] = {
        "lr": section.lr,
        "betas": section.betas,
        "weight_decay": section.weight_decay,
        "fused": True if on_cpu else None,
    }
    if zero.get("stage", 0) == 0 and precision == "fp32":
        settings["gradient_clipping"] = 0.0
        return ClippedAdamW(trainable, section.max_grad_norm, **options)
    return torch.optim.AdamW(trainable, **options)


def forget_gradients(engine: Any) -> None:
    """Drop the gradients that a skipped step left.

    With an offloaded optimizer and gradients accumulated in another dtype, ZeRO-1 and -2 (DeepSpeed 0.19.8) keep the
    accumulated ones, and would skip every later step too.
    """
    if engine.zero_optimization_stage() in (1, 2):
        kept = getattr(engine.optimizer, "averaged_gradients", {})
        kept.update(dict.fromkeys(kept))
