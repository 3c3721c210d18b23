"""Measures of a clip, one module each, selected by module name; a dotted name is a module outside this package.

An annotator is a module with

- `KEYS`: the metadata keys that it gives, with the unit in the key of a number that has one;
- `NEEDS`: the module that it imports beyond the project's own requirements -> the extra of setup.py that installs it;
- `load() -> Measure`: called once per process, prepares models and tables. The measure takes a waveform (float32
  [samples] in [-1, 1] at 16 kHz, mono) and returns `{key: value}`, numbers rounded to their significant digits; it
  raises AudioError for a clip that it cannot measure;
- `VERSION`, if its values have changed since the first release: an interrupted run resumes with the same one only.
"""

import pkgutil
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from types import ModuleType

import numpy as np

from caad_ds.data.audio.decode import SAMPLE_RATE, AudioError
from caad_ds.utils.errors import UserError
from caad_ds.utils.plugins import plugin_module

Measure = Callable[[np.ndarray], dict[str, float | str]]


def names() -> list[str]:
    """Return the names of the annotators in this package."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get(name: str) -> ModuleType:
    """Return the module of an annotator; for an unknown name UserError lists the known ones."""
    return plugin_module("annotator", name, __name__, names(), ("KEYS", "NEEDS", "load"))


def check_installed(chosen: Sequence[str]) -> None:
    """Raise UserError, which names the extra to install, if a package that the annotators need is missing."""
    for name in chosen:
        for package, extra in get(name).NEEDS.items():
            if not _installed(package):
                raise UserError(
                    f"annotator {name} needs {package}, which is not installed: pip install -e '.[{extra}]'"
                )


def versions(chosen: Sequence[str]) -> dict[str, int]:
    """Return the versions of the annotators that have one."""
    return {name: module.VERSION for name in chosen if hasattr(module := get(name), "VERSION")}


@cache
def measure_of(name: str) -> Measure:
    """Return the measure of an annotator, loaded once per process."""
    return get(name).load()


def at_least(waveform: np.ndarray, seconds: float, what: str) -> None:
    """Raise AudioError, which names `what`, if the waveform is shorter than `seconds`."""
    if waveform.size < seconds * SAMPLE_RATE:
        raise AudioError(f"{waveform.size / SAMPLE_RATE:.2f} s are too short for {what}, which needs {seconds:g} s")


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # its parent package is missing
        return False
