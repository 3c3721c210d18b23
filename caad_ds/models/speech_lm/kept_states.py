"""Cache a frozen encoder's states of clips in host memory."""

import hashlib

import torch
from torch import Tensor

from caad_ds.models.whisper_qformer.encoder import SpeechEncoder


class KeptStates:
    """Encodes clips, and caches the states of distinct ones in host memory, up to `limit` bytes.

    Clips are always encoded one at a time: the size of a batch changes the rounding of its products, and a resumed run
    with an empty cache must compute the same as before.
    """

    def __init__(self, encoder: SpeechEncoder, limit: float):
        self.encoder = encoder
        self.room = limit
        self._kept: dict[bytes, Tensor] = {}

    def __len__(self) -> int:
        """Return the number of cached clips."""
        return len(self._kept)

    def encode(self, features: Tensor) -> Tensor:
        """Return the tapped states [U, taps, frames / 2, D] of features [U, mel, frames]."""
        # Clips are looked up by content: samples may name one by different paths, and a negative has no name.
        digests = [hashlib.sha256(row.numpy().data).digest() for row in features.cpu().contiguous()]
        device = self.encoder.whisper.conv1.weight.device
        return torch.stack([self._one(*clip).to(device) for clip in zip(digests, features, strict=True)])

    def _one(self, digest: bytes, features: Tensor) -> Tensor:
        if digest in self._kept:
            return self._kept[digest]
        states = self.encoder.encode(features[None]).hidden[0]
        if states.nbytes <= self.room:
            self.room -= states.nbytes
            self._kept[digest] = states.cpu()
        return states
