"""Measures of a clip, one module each, found by the module's name; a dotted name is that of a module elsewhere.

An annotator is a module with

- `KEYS`: the metadata keys that it gives, with the unit in the key of a number that has one;
- `NEEDS`: the module that it imports beyond the project's own requirements -> the extra of setup.py that installs it;
- `load() -> Measure`: called once in a process, it makes models and tables ready. The measure takes a waveform
  (float32 [samples] in [-1, 1] at 16 kHz, mono) and gives `{key: value}`, numbers rounded to what they are worth; it
  raises AudioError for a clip that it cannot measure;
- `VERSION`, where its values have changed since it first came: with another one an interrupted run does not resume.
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
    """The annotators there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get(name: str) -> ModuleType:
    """The module of an annotator; UserError lists the names where there is none of that name."""
    return plugin_module("annotator", name, __name__, names(), ("KEYS", "NEEDS", "load"))


def check_installed(chosen: Sequence[str]) -> None:
    """Raise UserError, which names the extra to install, unless all that the annotators need is installed."""
    for name in chosen:
        for package, extra in get(name).NEEDS.items():
            if not _installed(package):
                raise UserError(
                    f"annotator {name} needs {package}, which is not installed: pip install -e '.[{extra}]'"
                )


def versions(chosen: Sequence[str]) -> dict[str, int]:
    """The versions of the annotators whose values have changed since they first came."""
    return {name: module.VERSION for name in chosen if hasattr(module := get(name), "VERSION")}


@cache
def measure_of(name: str) -> Measure:
    """The measure of an annotator, loaded once in this process."""
    return get(name).load()


def at_least(waveform: np.ndarray, seconds: float, what: str) -> None:
    """Raise AudioError, which names `what`, for a waveform that is shorter."""
    if waveform.size < seconds * SAMPLE_RATE:
        raise AudioError(f"{waveform.size / SAMPLE_RATE:.2f} s are too short for {what}, which needs {seconds:g} s")


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # the package that holds it
        return False
