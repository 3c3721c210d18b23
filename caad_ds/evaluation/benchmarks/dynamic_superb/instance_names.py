"""Names of Dynamic-SUPERB's instances: current ones, those of the first release, and those by number of audios.

Three instances ask about two clips. The CAAD authors score each of them twice: with one concatenated audio, under the
plain name, and with two audios, under the name with `-multiaudio`. These are different scores, so a row's presentation
is determined by its number of audios, not by the name of its file.
"""

import re
from difflib import get_close_matches
from functools import cache

from caad_ds.evaluation.benchmarks.dynamic_superb.dimensions import dimensions, instance_table
from caad_ds.evaluation.benchmarks.items import Fault

MULTIAUDIO = "-multiaudio"
PREFIX = re.compile(r"(?:datasets--)?Dynamic-?Superb(?:/|--|___)", re.IGNORECASE)  # the organisation on the hub
CLOSE = 0.7  # of difflib's ratio


def current_name(name: str) -> str:
    """Return an instance's name in the table for an older name or another spelling; unknown names are unchanged."""
    return _names().get(_spelling(name), name)


def closest(name: str) -> str | None:
    """Return the instance that an unknown name resembles, or None."""
    found = get_close_matches(_spelling(name), _names(), n=1, cutoff=CLOSE)
    return _names()[found[0]] if found else None


def task(name: str) -> str:
    """Return the part of an instance's name before its corpus."""
    return PREFIX.sub("", name).split("_")[0]


def presentation_name(name: str, audios: int, usual: int) -> str:
    """Return the instance in the table for an item with so many audios; `usual` is the number of most of its siblings.

    Raises Fault if there is none, or if its number is unusual: an audio may be missing or superfluous.
    """
    instance = current_name(name)
    if instance not in dimensions():
        return instance
    plain = instance.removesuffix(MULTIAUDIO)
    pair = plain + MULTIAUDIO
    count = f"holds {audios} audio{'s' * (audios != 1)}"
    if pair in dimensions() and audios != usual:
        raise Fault(f"{count} where most of {name} hold {usual}")
    if audios == 1 and instance == plain:
        return plain
    if audios == 2 and pair in dimensions():
        return pair
    expected = "two" if instance == pair else "one or two" if pair in dimensions() else "one"
    raise Fault(f"{count}; {instance} asks about {expected}")


@cache
def _names() -> dict[str, str]:
    """Return the instances by the spelling of each of their names."""
    return {_spelling(name): instance for _, instance, *older in instance_table() for name in (instance, *older)}


def _spelling(name: str) -> str:
    """Return a name without prefix, case and punctuation, by which spellings are compared."""
    return re.sub(r"[^a-z0-9]", "", PREFIX.sub("", name).lower())
