"""Speaking rate: `syllables_per_second`, from the syllable nuclei detected in the signal.

Nuclei are peaks of intensity between dips of at least 2 dB (de Jong and Wempe, "Praat script to detect syllable nuclei
and measure speech rate automatically", Behavior Research Methods 41, 2009), above the clip's median and no more than
25 dB below its maximum. As in Pfitzinger, Burger and Heid, "Syllable detection in read and spontaneous speech" (ICSLP
1996), the intensity is that of 250 to 2500 Hz, where vowels are strong and fricatives weak. The rate is measured from
the first nucleus to the last, pauses included; silence around the speech does not count.

The transcription is not used: word lengths differ between languages; Chinese, Japanese and Thai are written unspaced.
"""

import numpy as np

from caad_ds.data.audio.decode import SAMPLE_RATE, AudioError
from data_prep.annotate.annotators import Measure
from data_prep.annotate.numba_cache import one_process

KEYS = ("syllables_per_second",)
NEEDS = {"librosa": "annotate"}
FRAME, HOP = 1024, 160  # 64 ms, as Praat's intensity at its script's setting, every 10 ms
BAND_HZ = (250, 2500)
DIP_DB, RANGE_DB = 2.0, 25.0
LEAST_NUCLEI = 3


def load() -> Measure:
    """Return the measure, two decimals; AudioError below three nuclei."""
    with one_process():
        import librosa

        librosa.power_to_db(np.abs(librosa.stft(np.zeros(FRAME, np.float32), n_fft=FRAME)) ** 2)
    from scipy.signal import find_peaks

    low, high = BAND_HZ
    frequencies = librosa.fft_frequencies(sr=SAMPLE_RATE, n_fft=FRAME)
    band = (frequencies >= low) & (frequencies <= high)

    def measure(waveform: np.ndarray) -> dict[str, float | str]:
        spectrum = np.abs(librosa.stft(_padded(waveform), n_fft=FRAME, hop_length=HOP))[band]
        intensity = librosa.power_to_db((spectrum**2).sum(axis=0), top_db=None)
        floor = max(np.median(intensity), intensity.max() - RANGE_DB)
        nuclei, _ = find_peaks(intensity, height=floor, prominence=DIP_DB)
        if nuclei.size < LEAST_NUCLEI:
            raise AudioError(f"{nuclei.size} syllables are heard, and a speaking rate needs {LEAST_NUCLEI}")
        seconds = (nuclei[-1] - nuclei[0]) * HOP / SAMPLE_RATE
        return {"syllables_per_second": round((nuclei.size - 1) / float(seconds), 2)}

    return measure


def _padded(waveform: np.ndarray) -> np.ndarray:
    """Pad the waveform to at least one frame."""
    return np.pad(waveform, (0, max(0, FRAME - waveform.size)))
