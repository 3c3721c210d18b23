"""eSpeak NG through ctypes: text to 16 kHz speech, from the library and voices that `espeakng_loader` ships."""

import ctypes
import os
from functools import cache
from typing import Any

import numpy as np
import soxr

from caad_ds.data.audio import SAMPLE_RATE
from caad_ds.errors import UserError

# espeak-ng/speak_lib.h
_AUDIO_OUTPUT_SYNCHRONOUS, _DONT_EXIT = 2, 0x8000
_RATE, _PITCH = 1, 3
_POSITION_CHARACTER, _CHARS_UTF8 = 1, 1
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def speak(text: str, voice: str, words_per_minute: int, pitch: int) -> np.ndarray:
    """Speech without the silence around it, float32 [samples] at 16 kHz.

    `voice` is a language with a variant, such as `en-us+f3`; `pitch` runs from 0 to 99, 50 being the variant's own.
    Equal arguments give equal samples: the library carries state from one utterance to the next, so each is spoken by
    a fork of this process, whose own copy never speaks.
    """
    engine = _engine()
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        _speak_and_exit(engine, write_end, text, voice, words_per_minute, pitch)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        pcm = np.frombuffer(pipe.read(), dtype=np.int16)
    _, status = os.waitpid(child, 0)
    if status or not pcm.any():
        raise RuntimeError(f"eSpeak NG could not speak {text!r} with voice {voice!r} (status {status})")
    audible = np.flatnonzero(np.abs(pcm) > 0.01 * np.abs(pcm).max())
    trimmed = pcm[audible[0] : audible[-1] + 1] / np.float32(32768)
    return soxr.resample(trimmed, engine.rate, SAMPLE_RATE)


class _Engine:
    """The library, initialised: a process may do that only once."""

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError as error:
            raise UserError("espeakng-loader is not installed: pip install espeakng-loader") from error
        self.library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        self.rate = self.library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, data, _DONT_EXIT)
        if self.rate <= 0:
            raise RuntimeError(f"eSpeak NG did not start (status {self.rate}, data {data.decode()})")
        self.library.espeak_ng_SetRandSeed(ctypes.c_long(0))  # it seeds itself with the clock

    def synthesize(self, text: str, voice: str, words_per_minute: int, pitch: int) -> bytes:
        """int16 samples at `rate`; b"" if the voice does not exist."""
        chunks: list[bytes] = []

        def receive(samples: Any, count: int, _events: Any) -> int:
            if samples and count:
                chunks.append(ctypes.string_at(samples, 2 * count))
            return 0

        callback = _CALLBACK(receive)
        self.library.espeak_SetSynthCallback(callback)
        if self.library.espeak_SetVoiceByName(voice.encode()) != 0:
            return b""
        self.library.espeak_SetParameter(_RATE, words_per_minute, 0)
        self.library.espeak_SetParameter(_PITCH, pitch, 0)
        data = text.encode()
        size = ctypes.c_size_t(len(data) + 1)
        self.library.espeak_Synth(data, size, 0, _POSITION_CHARACTER, 0, _CHARS_UTF8, None, None)
        return b"".join(chunks)


@cache
def _engine() -> _Engine:
    return _Engine()


def _speak_and_exit(engine: _Engine, write_end: int, *utterance: Any) -> None:
    status = 1
    try:
        with os.fdopen(write_end, "wb") as pipe:
            pipe.write(engine.synthesize(*utterance))
        status = 0
    finally:
        os._exit(status)  # the parent's buffers and exit handlers are not ours to run
