"""What the encoder gives to the connector."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AudioStates:
    """Tapped encoder states of A audios: `hidden` [A, taps, frames, D]."""

    hidden: Tensor

    @staticmethod
    def cat(parts: list["AudioStates"]) -> "AudioStates":
        """The audios of several states, one after another."""
        return AudioStates(torch.cat([part.hidden for part in parts]))
