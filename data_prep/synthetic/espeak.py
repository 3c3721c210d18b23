"""eSpeak NG through ctypes: text to 16 kHz speech, from the library and voices that `espeakng_loader` ships."""

import ctypes
from _ctypes import dlclose
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import soxr

from caad_ds.data.audio.decode import SAMPLE_RATE
from caad_ds.utils.errors import UserError

# espeak-ng/speak_lib.h
_AUDIO_OUTPUT_SYNCHRONOUS, _DONT_EXIT = 2, 0x8000
_RATE, _PITCH = 1, 3
_POSITION_CHARACTER, _CHARS_UTF8 = 1, 1
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def speak(text: str, voice: str, words_per_minute: int, pitch: int) -> np.ndarray:
    """Synthesize speech without surrounding silence, float32 [samples] at 16 kHz.

    `voice` is a language with a variant, such as `en-us+f3`; `pitch` is 0 to 99, 50 being the variant's own. Equal
    arguments give equal samples in any order of calls. Raises RuntimeError for a voice that does not exist.
    """
    with _fresh_library() as (library, rate):
        pcm = _synthesize(library, text, voice, words_per_minute, pitch)
    if not pcm.any():
        raise RuntimeError(f"eSpeak NG could not speak {text!r} with voice {voice!r}")
    audible = np.flatnonzero(np.abs(pcm) > 0.01 * np.abs(pcm).max())
    trimmed = pcm[audible[0] : audible[-1] + 1] / np.float32(32768)
    return soxr.resample(trimmed, rate, SAMPLE_RATE)


@contextmanager
def _fresh_library() -> Iterator[tuple[ctypes.CDLL, int]]:
    """Load a fresh copy of the library; yields it and its sampling rate.

    It keeps static state between utterances, which only unloading clears, not initialising it again.
    """
    try:
        import espeakng_loader
    except ImportError as error:
        raise UserError("espeakng-loader is not installed: pip install espeakng-loader") from error
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    data = espeakng_loader.get_data_path().encode()
    rate = library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, data, _DONT_EXIT)
    if rate <= 0:
        raise RuntimeError(f"eSpeak NG did not start (status {rate}, data {data.decode()})")
    library.espeak_ng_SetRandSeed(ctypes.c_long(0))  # it seeds itself with the clock
    try:
        yield library, rate
    finally:
        library.espeak_Terminate()
        dlclose(library._handle)


def _synthesize(library: ctypes.CDLL, text: str, voice: str, words_per_minute: int, pitch: int) -> np.ndarray:
    """Synthesize int16 [samples]; empty if the voice does not exist."""
    chunks: list[bytes] = []

    def receive(samples: Any, count: int, _events: Any) -> int:
        if samples and count:
            chunks.append(ctypes.string_at(samples, 2 * count))
        return 0

    callback = _CALLBACK(receive)
    library.espeak_SetSynthCallback(callback)
    if library.espeak_SetVoiceByName(voice.encode()) == 0:
        library.espeak_SetParameter(_RATE, words_per_minute, 0)
        library.espeak_SetParameter(_PITCH, pitch, 0)
        data = text.encode()
        size = ctypes.c_size_t(len(data) + 1)
        library.espeak_Synth(data, size, 0, _POSITION_CHARACTER, 0, _CHARS_UTF8, None, None)
    return np.frombuffer(b"".join(chunks), dtype=np.int16)
