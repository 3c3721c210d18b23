"""The learning rate as a pure function of the step, so that resuming needs no scheduler state."""

import math


def learning_rate(step: int, *, peak: float, warmup: int, total: int) -> float:
    """Warm up linearly over `warmup` steps to `peak`, then decay by cosine to zero at `total`; `step` counts from 0."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
