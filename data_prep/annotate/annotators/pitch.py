"""Pitch: `pitch_hz`, the median fundamental frequency of the voiced frames, as librosa's pYIN tracks it.

pYIN: Mauch and Dixon, "pYIN: A fundamental frequency estimator using probabilistic threshold distributions", ICASSP
2014. The frames are of 64 ms, 20 ms apart, the range is 60 to 500 Hz, in steps of a fifth of a semitone (1.2%).
"""

from typing import Any

import numpy as np

from caad_ds.data.audio.decode import SAMPLE_RATE, AudioError
from data_prep.annotate.annotators import Measure, at_least
from data_prep.annotate.numba_cache import one_process

KEYS = ("pitch_hz",)
NEEDS = {"librosa": "annotate"}
RANGE_HZ = (60.0, 500.0)
FRAME, HOP = 1024, 320
STEP_SEMITONES = 0.2
VOICED_SECONDS = 0.1
WARM_UP = np.sin(np.arange(4 * FRAME, dtype=np.float32) / 17)  # 150 Hz; it compiles what any waveform calls


def load() -> Measure:
    """One decimal; AudioError below 0.1 s of voice."""
    with one_process():
        import librosa

        _track(librosa, WARM_UP)

    def measure(waveform: np.ndarray) -> dict[str, float | str]:
        at_least(waveform, VOICED_SECONDS, "pitch")
        track, voiced = _track(librosa, waveform)
        seconds = voiced.sum() * HOP / SAMPLE_RATE
        if seconds < VOICED_SECONDS:
            raise AudioError(f"{seconds:.2f} s are voiced, and pitch needs {VOICED_SECONDS} s")
        return {"pitch_hz": round(float(np.median(track[voiced])), 1)}

    return measure


def _track(librosa: Any, waveform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The frequency of each frame in Hz, and whether it is voiced."""
    low, high = RANGE_HZ
    track, voiced, _ = librosa.pyin(
        waveform - waveform.mean(),  # an offset correlates at every lag: quiet voiced frames are lost beside it
        fmin=low,
        fmax=high,
        sr=SAMPLE_RATE,
        frame_length=FRAME,
        hop_length=HOP,
        resolution=STEP_SEMITONES,
    )
    return track, voiced
