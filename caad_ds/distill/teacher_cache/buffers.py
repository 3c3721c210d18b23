"""Memory of batches that is used again: the pages of new memory take several times as long as reading into them."""

import weakref
from collections import deque

import numpy as np
import torch
from torch import Tensor

from caad_ds.distill.teacher_cache.layout import Layout

KEPT = 4  # buffers that wait for their next use
STEP = 2**20  # bytes that their sizes are multiples of, so that batches of nearly equal size share them


class Buffers:
    """Tensors for the rows of a batch, from any thread; their memory is used again when the last of them is gone."""

    def __init__(self, layout: Layout):
        self.layout = layout
        self._free: deque[np.ndarray] = deque(maxlen=KEPT)

    def rows(self, count: int) -> list[Tensor]:
        """`Layout.empty` for so many rows."""
        size = count * self.layout.bytes_per_row
        memory = self._taken(size)
        # The tensor holds this array as long as any view of its memory is there, and nobody else does.
        lease = memory[:size]
        weakref.finalize(lease, self._free.append, memory).atexit = False
        block = torch.from_numpy(lease)
        del lease
        parts, start = [], 0
        for like in reversed(self.layout.empty(0)):  # float32 first, so that each begins where its dtype may
            end = start + count * like.shape[1] * like.element_size()
            parts.append(block[start:end].view(like.dtype).view(count, like.shape[1]))
            start = end
        return parts[::-1]

    def _taken(self, size: int) -> np.ndarray:
        """A free buffer that is large enough; a smaller one is given up."""
        while True:
            try:
                memory = self._free.pop()
            except IndexError:
                return np.empty(-(-size // STEP) * STEP, np.uint8)
            if len(memory) >= size:
                return memory
