"""A sample from a reader; apart from batches, which need PyTorch."""

from dataclasses import dataclass

import numpy as np

from caad_ds.data.record import PromptRecord


@dataclass(frozen=True)
class Sample:
    """One training or evaluation record with its audio decoded.

    `record` is the manifest record; `waveforms` holds one float32 mono 16 kHz array per `<|AUDIO|>`.
    """

    key: str
    record: PromptRecord
    waveforms: list[np.ndarray]
