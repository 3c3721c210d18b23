"""What stands in the audio's place in the second pass (docs/method.md, Negatives): a module for each, found by name.

A negative's module has `negative(batch, samples, reader, partners) -> Batch`: a model's batch of samples, on the CPU,
becomes that of the second path. It may depend on each sample, and must not depend on the samples beside it. `samples`
hold their waveforms, `partners(sample, number)` gives audio of others. A new one is a module here, and a name in the
configuration's `NegativeName`.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from caad_ds.config.objective_section import NEGATIVES
from caad_ds.data.audio.decoded import Sample
from caad_ds.data.batch import Batch
from caad_ds.utils.errors import UserError

Partners = Callable[[Sample, int], np.ndarray]  # (sample, which of its audios) -> another sample's waveform


class Negative(Protocol):
    """Makes the batch of the second path."""

    def __call__(self, batch: Batch, samples: Sequence[Sample], reader: Any, partners: Partners | None) -> Batch:
        """The batch of the samples as the second path sees it."""


def of_no_sample(name: str, reader: Any) -> Batch | None:
    """The second path of a sample that is nothing but an audio; None where it differs from sample to sample."""
    batch, waveform = reader.only_audio(), reader.shortest()
    sample = Sample("", {"id": "", "messages": [], "audios": [{"text": ""}]}, [waveform])
    second = find(name)(batch, [sample], reader, lambda sample, number: waveform)
    return second if second.constant or not len(second.audio_index) else None


def find(name: str) -> Negative:
    """The negative of a name; UserError where there is none."""
    if name not in NEGATIVES:
        raise UserError(f"negative {name!r}: not known; use one of {', '.join(NEGATIVES)}")
    return import_module(f"{__name__}.{name}").negative
