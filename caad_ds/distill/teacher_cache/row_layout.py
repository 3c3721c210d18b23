"""The layout of a sample's rows in a segment of a teacher cache."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from caad_ds.loss.teacher_scalars import SCALARS
from caad_ds.utils.device import DTYPES

CacheForm = Literal["pair", "contrast"]


@dataclass(frozen=True)
class Layout:
    """Layout of a sample's rows in a segment.

    In this order: `positive` [n, width], in form `pair` `negative` [n, width], and `scalars` float32 [n, 5].

    Args:
        form: `pair` stores both paths, for any alpha; `contrast` their contrast, in half the space.
        width: Ht, the teacher's hidden size.
        precision: of the states, `fp32` or `bf16`.
    """

    form: CacheForm
    width: int
    precision: Literal["fp32", "bf16"]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the states."""
        return DTYPES[self.precision]

    @property
    def bytes_per_row(self) -> int:
        """Bytes of an answer row."""
        paths = 2 if self.form == "pair" else 1
        return paths * self.width * self.dtype.itemsize + len(SCALARS) * torch.float32.itemsize

    def empty(self, rows: int) -> list[Tensor]:
        """Allocate uninitialized tensors for `rows` rows, in the order of the file."""
        states = [torch.empty(rows, self.width, dtype=self.dtype) for _ in range(2 if self.form == "pair" else 1)]
        return [*states, torch.empty(rows, len(SCALARS))]


def as_bytes(tensor: Tensor) -> memoryview:
    """View the memory of a contiguous CPU tensor as bytes; RuntimeError for others, which would be copied."""
    return tensor.view(-1).view(torch.uint8).numpy().data
