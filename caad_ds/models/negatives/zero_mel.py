"""Features of zero, the authors' negative: all audio inputs are 0, except masks and lengths."""

from collections.abc import Sequence

import torch

from caad_ds.data.batch import Audio, Batch
from caad_ds.data.decoded_sample import Sample
from caad_ds.models.negatives import Partners
from caad_ds.models.reader import Features, Reader


def negative(batch: Batch, samples: Sequence[Sample], reader: Reader, partners: Partners | None) -> Batch:
    """Set the batch's features to 0."""
    if reader.window is not None:
        return reader.constant(batch, "zero_mel", lambda: _silenced(reader.features([reader.shortest()])))
    return batch.with_audio(_zeros(batch.audio), batch.audio_index, batch.audio_positions)


def _silenced(features: Features) -> Features:
    return Features(_zeros(features.audio), features.positions)


def _zeros(audio: Audio) -> Audio:
    return {name: torch.zeros_like(value) if value.is_floating_point() else value for name, value in audio.items()}
