"""Duration: `seconds`, of the decoded audio."""

import numpy as np

from caad_ds.data.audio.decode import SAMPLE_RATE
from data_prep.annotate.annotators import Measure

KEYS = ("seconds",)
NEEDS: dict[str, str] = {}


def load() -> Measure:
    """Return the measure: number of samples / sampling rate, defined for every clip."""
    return _seconds


def _seconds(waveform: np.ndarray) -> dict[str, float | str]:
    return {"seconds": round(waveform.size / SAMPLE_RATE, 3)}
