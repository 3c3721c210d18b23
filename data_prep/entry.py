"""An audio as a record names it: a file, or a part of one (`offset` and `duration` in seconds)."""

from pathlib import Path

import numpy as np

from caad_ds.data.audio import AudioError, load


def waveform(entry: dict) -> np.ndarray:
    """What the entry names, float32 [samples] at 16 kHz; AudioError, which names the file, if it is not to be had."""
    part = (entry["offset"], entry["duration"]) if is_part(entry) else ()
    try:
        return load(Path(entry["path"]), *part)
    except AudioError as error:
        raise AudioError(f"{entry['path']} does not decode: {error}") from error


def is_part(entry: dict) -> bool:
    """Whether the entry names a part of its file."""
    return entry.get("offset") is not None


def cut_out(entry: dict) -> dict:
    """The entry of a file that holds that part alone."""
    return {name: value for name, value in entry.items() if name != "offset"}
