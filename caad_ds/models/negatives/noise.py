"""White noise of the same length, from a fixed seed."""

from collections.abc import Sequence

import numpy as np

from caad_ds.data.batch import Batch
from caad_ds.data.decoded_sample import Sample
from caad_ds.models.negatives import Partners
from caad_ds.models.reader import Reader

AMPLITUDE = 0.1


def negative(batch: Batch, samples: Sequence[Sample], reader: Reader, partners: Partners | None) -> Batch:
    """Replace each audio by noise."""
    if (window := reader.window) is not None:
        return reader.constant(batch, "noise", lambda: reader.features([_noise(window)]))
    return reader.replaced(batch, [_noise(len(waveform)) for each in samples for waveform in each.waveforms])


def _noise(samples: int) -> np.ndarray:
    return (np.random.default_rng(0).standard_normal(samples) * AMPLITUDE).astype(np.float32)
