"""Inputs that replace the audio in the contrastive pass (docs/method.md, Negatives): a module each, looked up by name.

A negative's module has `negative(batch, samples, reader, partners) -> Batch`: it turns a model's batch of samples, on
the CPU, into that of the second path. It may depend on each sample, but not on the others in the batch. `samples`
hold their waveforms, `partners(sample, number)` returns audio of another sample. A new negative is a module here, and a
name in the configuration's `NegativeName`.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from caad_ds.config.objective_section import NEGATIVES
from caad_ds.data.batch import Batch
from caad_ds.data.decoded_sample import Sample
from caad_ds.utils.errors import UserError

Partners = Callable[[Sample, int], np.ndarray]  # (sample, which of its audios) -> another sample's waveform


class Negative(Protocol):
    """Makes the batch of the second path."""

    def __call__(self, batch: Batch, samples: Sequence[Sample], reader: Any, partners: Partners | None) -> Batch:
        """Return the second path's batch of the samples."""


def constant_negative(name: str, reader: Any) -> Batch | None:
    """Return the second path of a sample with nothing but an audio; None if it depends on the sample."""
    batch, waveform = reader.only_audio(), reader.shortest()
    sample = Sample("", {"id": "", "messages": [], "audios": [{"text": ""}]}, [waveform])
    second = find(name)(batch, [sample], reader, lambda sample, number: waveform)
    return second if second.constant or not len(second.audio_index) else None


def find(name: str) -> Negative:
    """Return the negative of a name; UserError if it does not exist."""
    if name not in NEGATIVES:
        raise UserError(f"negative {name!r}: not known; use one of {', '.join(NEGATIVES)}")
    return import_module(f"{__name__}.{name}").negative
