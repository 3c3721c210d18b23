"""The teacher's hidden states of a batch that a cache holds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from caad_ds.utils.device import copied


@dataclass(frozen=True)
class StoredStates:
    """What a teacher cache holds for the N answer rows of a batch of B samples.

    Args:
        contents: a hash of each sample's text, audio and answer.
        present: bool [B], whether a sample's rows are in the cache; rows of the others are undefined.
        positive: [N, Ht], the states with the audio, or the contrasted ones of a cache of form `contrast`.
        negative: [N, Ht], the states of the second path, in form `pair`.
        scalars: float32 [N, 5], see `SCALARS` of the loss.

    The last three are None if no sample is present.
    """

    contents: Sequence[str]
    present: Tensor
    positive: Tensor | None = None
    negative: Tensor | None = None
    scalars: Tensor | None = None

    @property
    def complete(self) -> bool:
        """Whether every sample of the batch is present."""
        return bool(self.present.all())

    def rows(self, chosen: Tensor) -> "StoredStates":
        """Select rows, bool [N]."""
        return self._each(lambda tensor: tensor[chosen])

    def to(self, device: torch.device | str) -> "StoredStates":
        """Copy to a device; `present` stays on the CPU, where it is read."""
        return self._each(lambda tensor: copied(tensor, device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "StoredStates":
        changed = (None if part is None else change(part) for part in (self.positive, self.negative, self.scalars))
        return StoredStates(self.contents, self.present, *changed)
