"""Synthesised signals that resemble speech."""

import numpy as np

from caad_ds.data.audio.decode import SAMPLE_RATE


def voiced(hertz: float, seconds: float = 1.0, level: float = 0.1) -> np.ndarray:
    """A tone with harmonics that fall off as those of a voice do."""
    times = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    harmonics = range(1, int(4000 / hertz))
    return level * sum(np.sin(2 * np.pi * hertz * number * times) / number for number in harmonics)


def pulses(per_second: float, seconds: float = 4.0) -> np.ndarray:
    """Vowel-like bursts at an even rate."""
    phase = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE * per_second % 1
    return voiced(120, seconds) * (0.1 + np.sin(np.pi * phase) ** 2)
