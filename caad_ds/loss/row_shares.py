"""Each row's share of a loss, from the normalizer and the row's factors."""

import torch
from torch import Tensor


@torch.no_grad()
def row_shares(
    valid: Tensor, sample_of_row: Tensor | None, normalizer: float | Tensor | None, dtype: torch.dtype
) -> Tensor:
    """Return each row's share [N]: 1 / normalizer, or 1 / (rows of its sample * normalizer); 0 if ignored."""
    weight = valid.to(dtype)
    counted = weight.sum()
    if sample_of_row is not None:
        samples, sample = torch.unique(sample_of_row, return_inverse=True)
        sizes = weight.new_zeros(len(samples)).index_add_(0, sample, weight)
        weight = weight / sizes.clamp_min(1)[sample]
        counted = (sizes > 0).sum()
    if normalizer is None:
        return weight / counted.clamp_min(1)  # without valid rows the loss is 0, not 0 / 0
    return weight / nan_where_infinite(torch.as_tensor(normalizer).to(weight).reshape(()))


def factor(of_rows: Tensor, valid: Tensor, dtype: torch.dtype) -> Tensor:
    """Return each row's factor, 0 if it is ignored."""
    return nan_where_infinite(of_rows.detach().to(dtype).masked_fill(~valid, 0))


def nan_where_infinite(x: Tensor) -> Tensor:
    """Replace infinities by NaN: over an infinite normalizer an infinite factor would give 0."""
    return x + (x - x)
