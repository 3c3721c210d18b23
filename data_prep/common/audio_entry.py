"""Audio entries of a record: a file, or a part of one (`offset` and `duration` in seconds)."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from caad_ds.data.audio.decode import AudioError, measured, measured_pcm16
from caad_ds.data.audio.usable_audio import Levels, Rules
from caad_ds.data.record import Audio


def waveform(entry: Audio) -> np.ndarray:
    """Load the entry's audio, float32 [samples] at 16 kHz; AudioError names the file if it cannot be decoded."""
    return _loaded(measured, entry)[0]


def usable_waveform(entry: Audio, rules: Rules) -> np.ndarray:
    """Like `waveform`; AudioError also if the audio breaks a rule."""
    return _usable(measured, entry, rules)


def usable_pcm16(entry: Audio, rules: Rules) -> np.ndarray:
    """Like `usable_waveform`, as int16 [samples]."""
    return _usable(measured_pcm16, entry, rules)


def seconds_of(entry: Audio) -> float:
    """Return the audio's length as measured by `prep ingest`, 0 if it was not."""
    return entry.get("duration") or 0.0


def is_part(entry: Audio) -> bool:
    """Return whether the entry names a part of its file."""
    return entry.get("offset") is not None


def cut_out(entry: Audio) -> Audio:
    """Return the entry for a new file that holds nothing but the part."""
    part = entry.copy()
    part.pop("offset", None)
    return part


def _usable(load: Callable[..., tuple[np.ndarray, Levels]], entry: Audio, rules: Rules) -> np.ndarray:
    samples, levels = _loaded(load, entry)
    if fault := rules.fault(levels):
        raise AudioError(f"{fault} ({entry['path']})")
    return samples


def _loaded(load: Callable[..., tuple[np.ndarray, Levels]], entry: Audio) -> tuple[np.ndarray, Levels]:
    try:
        return load(Path(entry["path"]), *_part(entry))
    except AudioError as error:
        raise AudioError(f"{entry['path']} does not decode: {error}") from error


def _part(entry: Audio) -> tuple[float, ...]:
    """Return offset and duration in seconds if the entry names a part, else ()."""
    if (offset := entry.get("offset")) is None:
        return ()
    start, seconds = offset, seconds_of(entry)
    if not (math.isfinite(start) and start >= 0 and math.isfinite(seconds) and seconds > 0):
        raise AudioError(f"offset {start} s with duration {seconds} s is not a valid part")
    return start, seconds
