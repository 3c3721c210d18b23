"""Signal-to-noise ratio: `snr_db`, estimated from the waveform alone (WADA-SNR).

Kim and Stern, "Robust signal-to-noise ratio estimation based on waveform amplitude distribution analysis", Interspeech
2008: the amplitudes of speech are Gamma distributed with shape 0.4, those of noise are Gaussian. log E|x| - E log|x| of
their sum rises with the ratio of their powers, so the ratio is looked up in a table, computed here from the two
distributions. The method needs no pauses in the speech and is independent of the language. It is wrong for audio
without speech and for noise that is far from Gaussian (clicks, a second voice).

Digital silence, from padding or noise gates, is neither speech nor noise and is left out: appending 5% of zeros to a
clip at 0 dB would raise its estimate to 12 dB.
"""

import numpy as np

from caad_ds.data.audio.decode import SAMPLE_RATE, AudioError
from caad_ds.data.audio.usable_audio import NOISE
from data_prep.annotate.annotators import Measure, at_least

KEYS = ("snr_db",)
NEEDS = {"scipy": "annotate"}
SPEECH_SHAPE = 0.4
# Beyond these the curve is too flat to distinguish levels: the estimate is clamped.
LEVELS_DB = np.arange(-10.0, 41.0)
QUANTILES = 1000  # of each distribution; 4000 move the table by less than 0.1 dB
LEAST_SECONDS = 0.5
BLOCK = SAMPLE_RATE // 1000
SILENT = 11  # this many blocks in a row with nothing but rounding or dither are digital silence
STEP = 2.0**-16  # half a step of 16-bit audio, so that digital silence has a logarithm


def load() -> Measure:
    """Return the measure, one decimal, from -10 to 40 dB; AudioError below 0.5 s and for silence."""
    statistics = _table()

    def measure(waveform: np.ndarray) -> dict[str, float | str]:
        at_least(waveform, LEAST_SECONDS, "the signal-to-noise ratio")
        sounding = _sounding(waveform)
        if not sounding.size:
            raise AudioError("it is silent")
        at_least(sounding, LEAST_SECONDS, "the signal-to-noise ratio, digital silence left out")
        centred = sounding.astype(np.float64) - sounding.mean()
        return {"snr_db": round(float(np.interp(_statistic(centred), statistics, LEVELS_DB)), 1)}

    return measure


def _sounding(waveform: np.ndarray) -> np.ndarray:
    """Return the samples outside digital silence, to the millisecond."""
    from scipy.ndimage import maximum_filter1d, minimum_filter1d

    blocks = waveform[: waveform.size // BLOCK * BLOCK].reshape(-1, BLOCK)
    low, high = minimum_filter1d(blocks.min(axis=1), SILENT), maximum_filter1d(blocks.max(axis=1), SILENT)
    silent = maximum_filter1d(high - low <= NOISE * 2 * STEP, SILENT)
    return blocks[~silent].ravel()


def _table() -> np.ndarray:
    """Compute the statistic of noisy speech at each of LEVELS_DB from pairs of quantiles: rising, float64 [levels]."""
    from scipy import stats

    shares = (np.arange(QUANTILES) + 0.5) / QUANTILES
    speech = stats.gamma.ppf(shares, SPEECH_SHAPE)
    speech /= np.sqrt(SPEECH_SHAPE * (SPEECH_SHAPE + 1))  # power 1
    noise = stats.norm.ppf(shares)
    return np.array([_statistic(speech[:, None] + 10 ** (-level / 20) * noise) for level in LEVELS_DB])


def _statistic(values: np.ndarray) -> float:
    magnitude = np.maximum(np.abs(values), STEP)
    return np.log(magnitude.mean()) - np.log(magnitude).mean()
