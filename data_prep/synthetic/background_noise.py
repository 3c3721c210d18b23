"""Background noise for clean speech, at a given signal-to-noise ratio."""

from collections.abc import Callable

import numpy as np
from scipy import fft

from caad_ds.data.audio.decode import SAMPLE_RATE


def background(rng: np.random.Generator, samples: int) -> np.ndarray:
    """Return a random mix of white, pink and babble-like noise: float64 [samples] of power 1."""
    kinds = [_shaped(rng, samples, _white), _shaped(rng, samples, _pink), _babble(rng, samples)]
    return _unit_power(rng.dirichlet(np.ones(len(kinds))) @ np.stack(kinds))


def scaled_to(noise: np.ndarray, speech: np.ndarray, snr_db: float) -> np.ndarray:
    """Scale `noise` (power 1) to `snr_db` dB below the power of `speech` (without surrounding silence)."""
    return noise * np.sqrt(np.mean(speech**2) / 10 ** (snr_db / 10))


def _shaped(rng: np.random.Generator, samples: int, gain: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    spectrum = fft.rfft(rng.standard_normal(samples))
    hertz = fft.rfftfreq(samples, 1 / SAMPLE_RATE)
    return _unit_power(fft.irfft(spectrum * gain(hertz), samples))


def _white(hertz: np.ndarray) -> np.ndarray:
    return np.ones_like(hertz)


def _pink(hertz: np.ndarray) -> np.ndarray:
    """Flat up to 30 Hz, then 3 dB less an octave; add_noise.py has another pink, which is not flat below."""
    return 1 / np.sqrt(np.maximum(hertz, 30.0))


def _speech_like(hertz: np.ndarray) -> np.ndarray:
    """Flat from 100 to 500 Hz, then 9 dB less an octave: roughly the long-term spectrum of speech."""
    return np.where(hertz < 100, 0.0, np.maximum(hertz / 500, 1.0) ** -1.5)


def _babble(rng: np.random.Generator, samples: int) -> np.ndarray:
    """Speech-shaped noise that swells and fades at the rate of syllables, 2 to 6 Hz."""
    seconds = np.arange(samples) / SAMPLE_RATE
    rates, phases = rng.uniform(2, 6, (3, 1)), rng.uniform(0, 2 * np.pi, (3, 1))
    envelope = 1 + 0.6 * np.sin(2 * np.pi * rates * seconds + phases).mean(axis=0)
    return _unit_power(_shaped(rng, samples, _speech_like) * envelope)


def _unit_power(noise: np.ndarray) -> np.ndarray:
    return noise / np.sqrt(np.mean(noise**2))
