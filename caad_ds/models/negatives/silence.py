"""A silent waveform of the same length (AAD); Whisper's extractor gives features of about -1.5."""

from collections.abc import Sequence

import numpy as np

from caad_ds.data.batch import Batch
from caad_ds.data.decoded_sample import Sample
from caad_ds.models.negatives import Partners
from caad_ds.models.reader import Reader


def negative(batch: Batch, samples: Sequence[Sample], reader: Reader, partners: Partners | None) -> Batch:
    """Replace each audio by silence."""
    if (window := reader.window) is not None:
        return reader.constant(batch, "silence", lambda: reader.features([np.zeros(window, np.float32)]))
    return reader.replaced(batch, [np.zeros_like(waveform) for each in samples for waveform in each.waveforms])
