"""States of clips that a frozen encoder has encoded, kept in host memory."""

import hashlib

import torch
from torch import Tensor

from caad_ds.models.whisper_qformer.encoder import SpeechEncoder


class KeptStates:
    """Encodes clips, and keeps the states of different ones in host memory until these take `limit` bytes.

    Clips are encoded one at a time, kept or not: the size of a batch changes how its products are rounded, and a run
    that resumes with nothing kept must compute what it computed before.
    """

    def __init__(self, encoder: SpeechEncoder, limit: float):
        self.encoder = encoder
        self.room = limit
        self._kept: dict[bytes, Tensor] = {}

    def __len__(self) -> int:
        """How many clips are kept."""
        return len(self._kept)

    def encode(self, features: Tensor) -> Tensor:
        """The tapped states [U, taps, frames / 2, D] of features [U, mel, frames]."""
        # Clips are known by their content: samples name one by different paths, and a negative has no name.
        digests = [hashlib.sha256(row.numpy().data).digest() for row in features.cpu().contiguous()]
        device = self.encoder.whisper.conv1.weight.device
        return torch.stack([self._one(*each).to(device) for each in zip(digests, features, strict=True)])

    def _one(self, digest: bytes, features: Tensor) -> Tensor:
        if digest in self._kept:
            return self._kept[digest]
        states = self.encoder.encode(features[None]).hidden[0]
        if states.nbytes <= self.room:
            self.room -= states.nbytes
            self._kept[digest] = states.cpu()
        return states
