"""Loudness: `loudness_lufs`, the integrated loudness of ITU-R BS.1770-4, as pyloudnorm measures it.

It is the loudness of the mono mix at 16 kHz, the encoder's input. The original of two equal stereo channels measures
3 LU more.
"""

import numpy as np

from caad_ds.data.audio.decode import SAMPLE_RATE, AudioError
from data_prep.annotate.annotators import Measure, at_least

KEYS = ("loudness_lufs",)
NEEDS = {"pyloudnorm": "annotate"}
BLOCK_SECONDS = 0.4  # the gating block of BS.1770


def load() -> Measure:
    """Return the measure, one decimal; AudioError below 0.4 s, and if no block is above the gate of -70 LUFS."""
    from pyloudnorm import Meter

    meter = Meter(SAMPLE_RATE, block_size=BLOCK_SECONDS)

    def measure(waveform: np.ndarray) -> dict[str, float | str]:
        at_least(waveform, BLOCK_SECONDS, "loudness")
        loudness = meter.integrated_loudness(waveform.astype(np.float64))
        if not np.isfinite(loudness):
            raise AudioError("it is silent: no part is above -70 LUFS")
        return {"loudness_lufs": round(float(loudness), 1)}

    return measure
