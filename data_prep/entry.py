"""An audio as a record names it: a file, or a part of one (`offset` and `duration` in seconds)."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from caad_ds.data.audio import AudioError, load, load_pcm16


def waveform(entry: dict) -> np.ndarray:
    """What the entry names, float32 [samples] at 16 kHz; AudioError, which names the file, if it is not to be had."""
    return _loaded(load, entry)


def pcm16(entry: dict) -> np.ndarray:
    """The same as int16 [samples]."""
    return _loaded(load_pcm16, entry)


def is_part(entry: dict) -> bool:
    """Whether the entry names a part of its file."""
    return entry.get("offset") is not None


def cut_out(entry: dict) -> dict:
    """The entry of a file that holds that part alone."""
    return {name: value for name, value in entry.items() if name != "offset"}


def _loaded(load: Callable[..., np.ndarray], entry: dict) -> np.ndarray:
    try:
        return load(Path(entry["path"]), *_part(entry))
    except AudioError as error:
        raise AudioError(f"{entry['path']} does not decode: {error}") from error


def _part(entry: dict) -> tuple[float, ...]:
    """Start and length in seconds where the entry names a part."""
    if not is_part(entry):
        return ()
    start, seconds = entry["offset"], entry.get("duration") or 0.0
    if not (math.isfinite(start) and start >= 0 and math.isfinite(seconds) and seconds > 0):
        raise AudioError(f"a part from {start} s on that lasts {seconds} s is none")
    return start, seconds
