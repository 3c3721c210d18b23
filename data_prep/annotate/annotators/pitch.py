"""Pitch: `pitch_hz`, the median fundamental frequency of the voiced frames, tracked by pYIN.

pYIN: Mauch and Dixon, "pYIN: A fundamental frequency estimator using probabilistic threshold distributions", ICASSP
2014; its difference function is that of YIN (de Cheveigné and Kawahara, JASA 111(4), 2002) with their window of 25 ms.
The frames are 20 ms apart, the range is 60 to 500 Hz, in steps of a fifth of a semitone (1.2%). Frequencies below the
range are filtered out: a rumble pulled the track to its lower bound. Only the Viterbi search is librosa's. The
difference function of its pyin (0.11) compares the last samples of a frame with zeros, which raises it for every
period, more so for long ones, and hides voiced frames.
"""

from typing import Any

import numpy as np

from caad_ds.data.audio.decode import SAMPLE_RATE, AudioError
from data_prep.annotate.annotators import Measure, at_least
from data_prep.annotate.numba_cache import one_process

VERSION = 2
KEYS = ("pitch_hz",)
NEEDS = {"librosa": "annotate"}
RANGE_HZ = (60.0, 500.0)
WINDOW, HOP = 400, 320
SHORTEST, LONGEST = int(SAMPLE_RATE / RANGE_HZ[1]), int(np.ceil(SAMPLE_RATE / RANGE_HZ[0]))  # periods in samples
BLOCK = 4096  # frames processed at once, to bound the memory of a long recording
FFT = 1024  # at least WINDOW + LONGEST + 1
STEP_SEMITONES = 0.2
BINS = int(12 / STEP_SEMITONES * np.log2(RANGE_HZ[1] / RANGE_HZ[0])) + 1
OCTAVES_PER_SECOND = 35.92  # largest change of pitch, as in the authors' implementation
THRESHOLDS = (2, 18)  # beta distribution of the threshold that a trough must be below
NO_TROUGH = 0.01  # weight of the deepest trough for the thresholds that no trough is below
SWITCH = 0.01  # probability that voicing begins or ends between two frames
QUIET = 1e-3  # frames with less than this share of the loudest frame's power (-30 dB) are unvoiced
VOICED_SECONDS = 0.1
WARM_UP = np.sin(np.arange(4096, dtype=np.float32) / 17)  # 150 Hz; compiles librosa's functions


def load() -> Measure:
    """Return the measure, one decimal; AudioError below 0.1 s of voiced frames."""
    with one_process():
        import librosa

        transitions = _transitions(librosa)
        _track(librosa, transitions, WARM_UP)

    def measure(waveform: np.ndarray) -> dict[str, float | str]:
        at_least(waveform, VOICED_SECONDS, "pitch")
        pitch = _track(librosa, transitions, waveform)
        seconds = pitch.size * HOP / SAMPLE_RATE
        if seconds < VOICED_SECONDS:
            raise AudioError(f"{seconds:.2f} s are voiced, and pitch needs {VOICED_SECONDS} s")
        return {"pitch_hz": round(float(np.median(pitch)), 1)}

    return measure


def _track(librosa: Any, transitions: np.ndarray, waveform: np.ndarray) -> np.ndarray:
    """Return the frequency in Hz of each voiced frame."""
    frames = _frames(waveform)
    power = np.einsum("ij,ij->i", frames[:, :WINDOW], frames[:, :WINDOW])
    blocks = (slice(first, first + BLOCK) for first in range(0, len(frames), BLOCK))
    heard = power > QUIET * power.max()
    voiced = np.concatenate([_observations(*_troughs(frames[block], heard[block])) for block in blocks], axis=1)
    unvoiced = np.repeat((1 - voiced.sum(axis=0, keepdims=True)).clip(0) / BINS, BINS, axis=0)
    states = librosa.sequence.viterbi(np.concatenate([voiced, unvoiced]), transitions)
    return RANGE_HZ[0] * 2 ** (states[states < BINS] * STEP_SEMITONES / 12)


def _transitions(librosa: Any) -> np.ndarray:
    """Return the transition probabilities [2 BINS, 2 BINS]; the first half of the states is voiced."""
    reach = round(OCTAVES_PER_SECOND * 12 * HOP / SAMPLE_RATE / STEP_SEMITONES)
    within = librosa.sequence.transition_local(BINS, reach + 1, window="triangle", wrap=False)
    return np.kron(librosa.sequence.transition_loop(2, 1 - SWITCH), within)


def _frames(waveform: np.ndarray) -> np.ndarray:
    """Return frames [frames, WINDOW + LONGEST + 1] of the signal, high-passed at the range's lower end."""
    from scipy.signal import butter, sosfiltfilt

    filtered = sosfiltfilt(butter(4, RANGE_HZ[0], "high", fs=SAMPLE_RATE, output="sos"), waveform)
    size = WINDOW + LONGEST + 1
    return np.lib.stride_tricks.sliding_window_view(np.pad(filtered, size // 2), size)[::HOP]


def _troughs(frames: np.ndarray, heard: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return probability and frequency (Hz) of each period from SHORTEST to LONGEST (samples), both [frames, periods].

    `heard` [frames]: frames that are loud enough to be voiced.
    """
    from scipy.special import betainc

    difference = _normalized_difference(frames, heard)
    left, middle, right = (difference[:, SHORTEST + k : LONGEST + 1 + k] for k in (-1, 0, 1))
    depth = np.where((middle < left) & (middle <= right), middle, 1.0).clip(0, 1)
    before = np.minimum.accumulate(np.pad(depth, ((0, 0), (1, 0)), constant_values=1.0), axis=1)[:, :-1]
    # A trough is chosen by the thresholds between its depth and the depth of all earlier troughs.
    below = betainc(*THRESHOLDS, depth)
    chance = (betainc(*THRESHOLDS, before) - below).clip(0)
    deepest = depth.argmin(axis=1)
    rows = np.arange(len(depth))
    chance[rows, deepest] += NO_TROUGH * np.where(depth[rows, deepest] < 1, below[rows, deepest], 0)
    curvature = left + right - 2 * middle
    shift = 0.5 * (left - right) / np.where(curvature > 0, curvature, np.inf)
    return chance, SAMPLE_RATE / (np.arange(SHORTEST, LONGEST + 1) + shift.clip(-0.5, 0.5))


def _normalized_difference(frames: np.ndarray, heard: np.ndarray) -> np.ndarray:
    """Return YIN's cumulative mean normalized difference [frames, LONGEST + 2]; 1 for frames that are not `heard`."""
    power = np.cumsum(np.pad(frames**2, ((0, 0), (1, 0))), axis=1)
    power = power[:, WINDOW:] - power[:, :-WINDOW]
    spectrum = np.fft.rfft(frames, FFT) * np.fft.rfft(frames[:, :WINDOW], FFT).conj()
    product = np.fft.irfft(spectrum, FFT)[:, : LONGEST + 2]
    difference = (power[:, :1] + power - 2 * product).clip(0)
    difference[:, 0] = 0
    mean = np.cumsum(difference, axis=1) / np.arange(LONGEST + 2).clip(1)
    return np.divide(difference, mean, out=np.ones_like(difference), where=heard[:, None] & (mean > 0))


def _observations(chance: np.ndarray, hertz: np.ndarray) -> np.ndarray:
    """Sum the probabilities by bin of the range: [BINS, frames]."""
    bins = np.round(12 / STEP_SEMITONES * np.log2(hertz / RANGE_HZ[0])).astype(int)
    frame, period = np.nonzero((chance > 0) & (bins >= 0) & (bins < BINS))
    observed = np.zeros((BINS, len(chance)))
    np.add.at(observed, (bins[frame, period], frame), chance[frame, period])
    return observed
