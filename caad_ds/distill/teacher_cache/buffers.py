"""Reuse the memory of batches: allocating fresh pages takes several times as long as reading into them."""

import weakref
from collections import deque

import numpy as np
import torch
from torch import Tensor

from caad_ds.distill.teacher_cache.row_layout import Layout

KEPT = 4  # free buffers to keep
STEP = 2**20  # their sizes are multiples of this, in bytes, so batches of similar size share them


class Buffers:
    """Tensors for the rows of a batch, from any thread; their memory is reused once all of them are freed."""

    def __init__(self, layout: Layout):
        self.layout = layout
        self._free: deque[np.ndarray] = deque(maxlen=KEPT)

    def rows(self, count: int) -> list[Tensor]:
        """Return `Layout.empty(count)` in reused memory."""
        size = count * self.layout.bytes_per_row
        memory = self._taken(size)
        # Only the tensor holds this array, for as long as a view of its memory exists.
        lease = memory[:size]
        weakref.finalize(lease, self._free.append, memory).atexit = False
        block = torch.from_numpy(lease)
        del lease
        parts, start = [], 0
        for like in reversed(self.layout.empty(0)):  # float32 first, which keeps all of them aligned
            end = start + count * like.shape[1] * like.element_size()
            parts.append(block[start:end].view(like.dtype).view(count, like.shape[1]))
            start = end
        return parts[::-1]

    def _taken(self, size: int) -> np.ndarray:
        """Take a free buffer that is large enough; a smaller one is dropped."""
        while True:
            try:
                memory = self._free.pop()
            except IndexError:
                return np.empty(-(-size // STEP) * STEP, np.uint8)
            if len(memory) >= size:
                return memory
