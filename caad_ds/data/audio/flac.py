"""Encode and decode the FLAC of shards: 16-bit samples at 16 kHz."""

import io

import numpy as np
import soundfile

from caad_ds.data.audio.usable_audio import SAMPLE_RATE
from caad_ds.utils.errors import AudioError, first_line

LONGEST_SECONDS = 3600.0  # of an audio in a shard; longer ones in a header are refused


def encode(pcm: np.ndarray) -> bytes:
    """Encode int16 [samples] at 16 kHz as a FLAC file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, SAMPLE_RATE, subtype="PCM_16", format="FLAC")
    return buffer.getvalue()


def decode(data: bytes, dtype: str = "float32", longest: float = LONGEST_SECONDS) -> np.ndarray:
    """Decode what `encode` wrote, to float32 in [-1, 1] or int16: [samples].

    AudioError if it does not decode, has another format, or claims to last more than `longest` seconds.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            if file.samplerate != SAMPLE_RATE or file.channels != 1:
                raise AudioError(f"the audio is not {SAMPLE_RATE} Hz mono")
            if file.frames > round(longest * SAMPLE_RATE):
                seconds = file.frames / SAMPLE_RATE
                raise AudioError(f"the audio claims to last {seconds:.1f} s, more than {longest:g} s")
            return file.read(dtype=dtype)
    except soundfile.SoundFileError as error:
        raise AudioError(first_line(error)) from error
