"""What Dynamic-SUPERB's instances are called: today, in the first release, and by the presentation of two clips.

Three instances ask about two clips. The CAAD authors score each of them twice: as one audio, under the plain name, and
as two, under the name with `-multiaudio`. The two are different figures, so a row's presentation is decided by how many
audios it holds, not by what its file is called.
"""

import re
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from caad_ds.evaluation.benchmarks.items import Fault
from caad_ds.utils.text import read_lines

MULTIAUDIO = "-multiaudio"
PREFIX = re.compile(r"(?:datasets--)?Dynamic-?Superb(?:/|--|___)", re.IGNORECASE)  # the organisation on the hub
CLOSE = 0.7  # of difflib's ratio


@cache
def dimensions() -> dict[str, str]:
    """The dimension of each of the 58 instances."""
    return {instance: dimension for dimension, instance, *_ in _table()}


def present(name: str) -> str:
    """The name of an instance today: of an older one, or another spelling, that of the table, else unchanged."""
    return _names().get(_spelling(name), name)


def closest(name: str) -> str | None:
    """The instance that an unknown name resembles, if any does."""
    found = get_close_matches(_spelling(name), _names(), n=1, cutoff=CLOSE)
    return _names()[found[0]] if found else None


def task(name: str) -> str:
    """The part of an instance's name before its corpus."""
    return PREFIX.sub("", name).split("_")[0]


def presented(name: str, audios: int, usual: int) -> str:
    """The row of the table that an item with so many audios belongs to, where most items of its name hold `usual`.

    Fault where it has none, or where it may only lack an audio, or have one too many, of the other presentation.
    """
    instance = present(name)
    if instance not in dimensions():
        return instance
    plain = instance.removesuffix(MULTIAUDIO)
    pair = plain + MULTIAUDIO
    held = f"holds {audios} audio{'s' * (audios != 1)}"
    if pair in dimensions() and audios != usual:
        raise Fault(f"{held} where most of {name} hold {usual}")
    if audios == 1 and instance == plain:
        return plain
    if audios == 2 and pair in dimensions():
        return pair
    asked = "two" if instance == pair else "one or two" if pair in dimensions() else "one"
    raise Fault(f"{held}; {instance} asks about {asked}")


@cache
def _table() -> list[list[str]]:
    lines = read_lines(Path(__file__).with_name("dynamic_superb.tsv"))
    return [line.split("\t") for _, line in lines if not line.startswith("#")][1:]


@cache
def _names() -> dict[str, str]:
    """Instances by the spelling of each of their names."""
    return {_spelling(name): instance for _, instance, *older in _table() for name in (instance, *older)}


def _spelling(name: str) -> str:
    """What two spellings of a name have in common."""
    return re.sub(r"[^a-z0-9]", "", PREFIX.sub("", name).lower())
