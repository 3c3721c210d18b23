"""Audio as the project keeps it: float32 mono 16 kHz in memory, 16-bit FLAC on disk."""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
import soxr

SAMPLE_RATE = 16_000
PROBE_FRAMES = 1 << 18


class AudioError(Exception):
    """An audio that does not decode, or holds nothing usable; callers add which record it belongs to."""


def load(path: Path, start: float = 0.0, seconds: float | None = None) -> np.ndarray:
    """Any file that libsndfile reads, mixed to mono and resampled to 16 kHz: float32 [samples] in [-1, 1].

    With `start` and `seconds` only that part of it, cut at the file's own rate. Raises AudioError if it is missing,
    does not decode, is empty or not finite.
    """
    with _opened(path) as file:
        file.seek(min(round(start * file.samplerate), file.frames))
        frames = -1 if seconds is None else round(seconds * file.samplerate)
        channels, rate = file.read(frames, dtype="float32", always_2d=True), file.samplerate
    waveform = soxr.resample(channels.mean(axis=1), rate, SAMPLE_RATE)
    if not waveform.size:
        raise AudioError("the audio is empty")
    if not np.isfinite(waveform).all():
        raise AudioError("the audio holds values that are not finite")
    return waveform.astype(np.float32, copy=False)


def probe(path: Path) -> float:
    """The length in seconds of a file that decodes from end to end, a block at a time however long it is.

    Raises AudioError as `load` does.
    """
    with _opened(path) as file:
        frames = 0
        for block in file.blocks(PROBE_FRAMES, dtype="float32"):
            if not np.isfinite(block).all():
                raise AudioError("the audio holds values that are not finite")
            frames += len(block)
        if not frames:
            raise AudioError("the audio is empty")
        return frames / file.samplerate


@contextmanager
def _opened(path: Path) -> Iterator[soundfile.SoundFile]:
    if not path.is_file():
        raise AudioError("there is no such file")
    try:
        with soundfile.SoundFile(path) as file:
            yield file
    except (soundfile.SoundFileError, OSError) as error:
        raise AudioError(str(error)) from error


def to_pcm16(waveform: np.ndarray) -> np.ndarray:
    """A float waveform rounded to little-endian int16, clipped at full scale."""
    return np.clip(np.rint(waveform * 32768.0), -32768, 32767).astype("<i2")


def encode(pcm: np.ndarray) -> bytes:
    """int16 [samples] at 16 kHz as a FLAC file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, SAMPLE_RATE, subtype="PCM_16", format="FLAC")
    return buffer.getvalue()


def decode(data: bytes, dtype: str = "float32") -> np.ndarray:
    """What `encode` wrote, as float32 in [-1, 1] or as its int16: [samples]."""
    try:
        waveform, rate = soundfile.read(io.BytesIO(data), dtype=dtype)
    except soundfile.SoundFileError as error:
        raise AudioError(str(error)) from error
    if rate != SAMPLE_RATE or waveform.ndim != 1:
        raise AudioError(f"the audio is not {SAMPLE_RATE} Hz mono")
    return waveform


def pcm_hash(parts: list[np.ndarray]) -> str:
    """sha256 of the int16 samples of a record's audios, one after another; survives a change of FLAC encoder."""
    digest = hashlib.sha256()
    for pcm in parts:
        digest.update(pcm.astype("<i2", copy=False).tobytes())
    return digest.hexdigest()
