"""Cache layers with the keys and values of precomputed prefixes, which further tokens continue."""

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer


class KeptLayer(DynamicLayer):
    """Keys and values [P, heads, S, width] of one layer for P prefixes.

    `rows` int64 [B] are the prefixes that the sequences of the next batch continue; None: all continue the only one.
    They do not change for further batches, unless `grows`: then the batch is appended to them.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, keys: Tensor, values: Tensor, rows: Tensor | None = None, grows: bool = False):
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values, self._rows, self._grows = keys, values, rows, grows

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Return the prefixes followed by [B, heads, T, width], as [B, heads, S + T, width]."""
        keys = torch.cat([self._continued(self.keys, len(key_states)), key_states], dim=-2)
        values = torch.cat([self._continued(self.values, len(value_states)), value_states], dim=-2)
        if self._grows:
            self.keys, self.values = keys, values
        return keys, values

    def _continued(self, kept: Tensor, sequences: int) -> Tensor:
        return kept.expand(sequences, -1, -1, -1) if self._rows is None else kept[self._rows]
