"""The encoder's output for the connector."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class AudioStates:
    """Tapped encoder states of A audios: `hidden` [A, taps, frames, D]."""

    hidden: Tensor
