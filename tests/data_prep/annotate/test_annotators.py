"""Measures of synthesised signals: what each annotator's figure is, and why some signals have none."""

from itertools import pairwise

import numpy as np
import pytest

from caad_ds.data.audio.decode import SAMPLE_RATE, AudioError
from data_prep.annotate import annotators
from data_prep.annotate.annotators import brouhaha, emotion2vec
from data_prep.synthetic.background_noise import background, scaled_to
from data_prep.synthetic.espeak import speak
from tests.data_prep.signals import pulses, voiced

VOICES = ("en-us+f3", "en-us+m3", "en-gb-scotland+m7", "en-us+Annie")
# What a measure may be off by is its own, not rounding's, and the same on every machine.
LOUDNESS_LU = 0.1  # within which a meter has to meet the test signals of EBU Tech 3341
PITCH = 0.015  # a step of pYIN's search, a fifth of a semitone (1.2%), and rounding to 0.1 Hz
SNR_DB = 0.5  # half a step of the table of levels
SNR_OF_THE_SAME_DB = 0.3  # the blocks lost around silence, and rounding to 0.1 dB on both sides
RATE = 0.02  # the first and the last nucleus are some 3 s apart, each known to a few frames of 10 ms
TEXT, SYLLABLES = "the big dog finds my old table today and the teacher likes bread and water", 19


def value(name: str, waveform: np.ndarray) -> float | str:
    """The first value that an annotator gives."""
    return next(iter(annotators.measure_of(name)(waveform.astype(np.float32)).values()))


def hiss(seconds: float) -> np.ndarray:
    """Noise above 4 kHz, louder than the vowels, as of an s."""
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(int(seconds * SAMPLE_RATE)))
    spectrum[: spectrum.size // 2] = 0
    return np.fft.irfft(spectrum)


def with_noise(speech: np.ndarray, snr_db: float, seed: int = 0) -> np.ndarray:
    padded = np.pad(speech, 800)
    return padded + scaled_to(background(np.random.default_rng(seed), padded.size), speech, snr_db)


def test_duration_is_that_of_the_samples():
    assert value("duration", np.zeros(24_000)) == 1.5


@pytest.mark.parametrize("gain_db", [0.0, -20.0, -40.0])
def test_loudness_of_a_sine_is_what_bs_1770_says(gain_db):
    sine = 10 ** (gain_db / 20) * np.sin(2 * np.pi * 997 * np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE)
    assert value("loudness", sine) == pytest.approx(gain_db - 3.01, abs=LOUDNESS_LU)


@pytest.mark.parametrize("hertz", [75.0, 118.0, 210.0, 440.0])
def test_pitch_is_the_fundamental(hertz):
    assert value("pitch", voiced(hertz)) == pytest.approx(hertz, rel=PITCH)
    assert value("pitch", np.pad(voiced(hertz, level=0.01), 8000)) == pytest.approx(hertz, rel=PITCH)


def test_an_offset_of_the_recorder_changes_no_pitch():
    speech = 0.1 * speak(TEXT, "en-us+m3", 150, 50)
    assert value("pitch", speech + 0.05) == value("pitch", speech)


def falling(first: float, last: float, seconds: float) -> np.ndarray:
    """A voice whose pitch falls evenly, as in a word that is said alone."""
    phase = 2 * np.pi * np.cumsum(np.linspace(first, last, int(seconds * SAMPLE_RATE))) / SAMPLE_RATE
    return 0.1 * sum(np.sin(number * phase) / number for number in range(1, 20))


def rumble(samples: int, level: float) -> np.ndarray:
    """Noise below 45 Hz, as of a desk or a microphone that is held."""
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(samples))
    spectrum[np.fft.rfftfreq(samples, 1 / SAMPLE_RATE) > 45] = 0
    noise = np.fft.irfft(spectrum, samples)
    return level * noise / noise.std()


def test_pitch_of_a_short_word_is_heard_above_a_rumble():
    word = np.pad(falling(130, 90, 0.25), 4_000)
    assert value("pitch", word + rumble(word.size, 0.05)) == pytest.approx(110, rel=0.05)


def test_a_rumble_below_the_range_has_no_pitch():
    hum = rumble(2 * SAMPLE_RATE, 0.05) + 1e-4 * np.random.default_rng(1).standard_normal(2 * SAMPLE_RATE)
    with pytest.raises(AudioError, match="are voiced"):
        value("pitch", hum)


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 10.0, 20.0])
def test_snr_is_right_where_its_assumption_is(snr_db):
    rng = np.random.default_rng(0)
    speech = rng.gamma(0.4, size=10 * SAMPLE_RATE) * rng.choice([-1, 1], 10 * SAMPLE_RATE)
    noise = rng.standard_normal(speech.size)
    mixed = speech + scaled_to(noise, speech, snr_db)
    assert value("snr", 0.01 * mixed) == pytest.approx(snr_db, abs=SNR_DB)
    assert value("snr", 0.01 * mixed + 0.02) == pytest.approx(snr_db, abs=SNR_DB)  # an offset is no speech


@pytest.mark.parametrize("snr_db", [0.0, 15.0])
def test_digital_silence_is_no_part_of_the_snr(snr_db):
    rng = np.random.default_rng(0)
    noisy = rng.gamma(0.4, size=4 * SAMPLE_RATE) * rng.choice([-1, 1], 4 * SAMPLE_RATE)
    noisy = 0.01 * (noisy + scaled_to(rng.standard_normal(noisy.size), noisy, snr_db))
    expected = pytest.approx(value("snr", noisy), abs=SNR_OF_THE_SAME_DB)
    first, second = np.split(noisy, 2)
    assert value("snr", np.pad(noisy, (1_600, 0))) == expected
    assert value("snr", np.concatenate([first, np.zeros(8_000), second])) == expected
    dithered = np.pad(noisy, (0, 32_000)) + rng.integers(-1, 2, noisy.size + 32_000) / 32768
    assert value("snr", dithered) == expected
    assert value("snr", np.pad(noisy, (0, 32_000)) + 0.02) == expected


def test_snr_of_speech_follows_the_noise_that_was_added():
    speeches = [0.1 * speak(TEXT, voice, 150, 50) for voice in VOICES]
    levels = (0.0, 5.0, 10.0, 15.0, 20.0)
    found = np.array([[value("snr", with_noise(speech, level)) for level in levels] for speech in speeches])
    assert (np.diff(found, axis=1) > 2.5).all()
    assert np.abs(found.mean(axis=0) - levels).max() < 2.0


@pytest.mark.parametrize("per_second", [2.0, 3.0, 4.0, 5.0, 6.5, 8.0])
def test_speaking_rate_counts_pulses(per_second):
    expected = pytest.approx(per_second, rel=RATE)
    assert value("speaking_rate", pulses(per_second)) == expected
    quiet = np.pad(0.02 * pulses(per_second), (4000, 20_000))  # neither the level nor silence around it counts
    assert value("speaking_rate", quiet) == expected
    between = 1 - np.abs(np.sin(np.pi * np.arange(4 * SAMPLE_RATE) / SAMPLE_RATE * per_second))
    assert value("speaking_rate", pulses(per_second) + between**4 * hiss(4.0)) == expected


@pytest.mark.parametrize("snr_db", [None, 10.0])
@pytest.mark.parametrize("voice", VOICES[:2])
def test_speaking_rate_rises_with_the_words_per_minute(voice, snr_db):
    found, true = [], []
    for words_per_minute in (100, 135, 170, 205):
        speech = 0.1 * speak(TEXT, voice, words_per_minute, 50)
        true.append(SYLLABLES * SAMPLE_RATE / speech.size)
        found.append(value("speaking_rate", speech if snr_db is None else with_noise(speech, snr_db)))
    assert all(slower < faster for slower, faster in pairwise(found))
    assert found == pytest.approx(true, rel=0.15)  # docs/annotate.md: 3 to 5% on average, 19% for the worst clip


@pytest.mark.parametrize(
    ("name", "waveform", "reason"),
    [
        ("loudness", 0.1 * np.ones(6_000), "0.38 s are too short for loudness, which needs 0.4 s"),
        ("loudness", np.zeros(16_000), "it is silent"),
        ("pitch", voiced(120, 0.05), "too short for pitch"),
        ("pitch", 0.1 * np.random.default_rng(0).standard_normal(16_000), "s are voiced, and pitch needs 0.1 s"),
        ("pitch", np.zeros(16_000), "0.00 s are voiced"),
        ("snr", np.ones(4_000), "0.25 s are too short for the signal-to-noise ratio"),
        ("snr", np.full(16_000, 0.5), "it is silent"),
        ("snr", np.pad(voiced(120, 0.3), 8_000), "0.30 s are too short for .*, digital silence left out"),
        ("speaking_rate", pulses(2, 1.0), "2 syllables are heard, and a speaking rate needs 3"),
        ("speaking_rate", np.zeros(16_000), "0 syllables"),
        ("speaking_rate", np.zeros(10), "0 syllables"),
    ],
)
def test_what_cannot_be_measured_says_why(name, waveform, reason):
    with pytest.raises(AudioError, match=reason):
        value(name, waveform)


def test_emotion2vecs_output_becomes_an_emotion():
    labels = ["生气/angry", "开心/happy", "中立/neutral", "其他/other", "<unk>"]
    row = {"key": "a", "labels": labels, "scores": [0.01, 0.9506, 0.02, 0.01, 0.0094]}
    assert emotion2vec.from_output(row) == {"emotion": "happy", "emotion_score": 0.951}
    for number in (3, 4):
        row["scores"] = [float(index == number) for index in range(5)]
        with pytest.raises(AudioError, match="is no emotion"):
            emotion2vec.from_output(row)


def test_brouhahas_frames_are_averaged_over_speech():
    frames = np.array([[0.9, 10.0, 30.0], [0.8, 20.0, 40.0], [0.1, -5.0, 60.0]], np.float32)
    assert brouhaha.from_frames(frames) == {"brouhaha_snr_db": 15.0, "c50_db": 35.0}
    with pytest.raises(AudioError, match="no speech"):
        brouhaha.from_frames(frames[2:])
