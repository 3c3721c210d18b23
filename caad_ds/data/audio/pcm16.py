"""Convert waveforms to 16-bit samples, in which the project stores, compares and hashes audio."""

import hashlib

import numpy as np


def to_pcm16(waveform: np.ndarray) -> np.ndarray:
    """Round a float waveform to little-endian int16, clipped at full scale."""
    return np.clip(np.rint(waveform * 32768.0), -32768, 32767).astype("<i2")


def pcm_hash(parts: list[np.ndarray]) -> str:
    """Return the sha256 of the int16 samples of a record's audios in order; it does not depend on the FLAC encoder."""
    digest = hashlib.sha256()
    for pcm in parts:
        digest.update(pcm.astype("<i2", copy=False).tobytes())
    return digest.hexdigest()
