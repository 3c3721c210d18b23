"""Keys and values of what sequences begin with, run before: layers of a cache that puts them before what follows."""

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer


class KeptLayer(DynamicLayer):
    """Keys and values [P, heads, S, width] of one layer for P beginnings.

    `rows` int64 [B] says which of them each sequence of the next batch continues; None: all continue the only one.
    They stay as they are for further batches, unless `grows`: then they hold that batch as well.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, keys: Tensor, values: Tensor, rows: Tensor | None = None, grows: bool = False):
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values, self._rows, self._grows = keys, values, rows, grows

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """The beginnings with [B, heads, T, width] after them, as [B, heads, S + T, width]."""
        keys = torch.cat([self._continued(self.keys, len(key_states)), key_states], dim=-2)
        values = torch.cat([self._continued(self.values, len(value_states)), value_states], dim=-2)
        if self._grows:
            self.keys, self.values = keys, values
        return keys, values

    def _continued(self, kept: Tensor, sequences: int) -> Tensor:
        return kept.expand(sequences, -1, -1, -1) if self._rows is None else kept[self._rows]
