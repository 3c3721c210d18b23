"""Dynamic-SUPERB's instances and their dimensions, from its table, and the groups that its means are over."""

from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from caad_ds.utils.text import read_lines

ALL, OUTSIDE = "ALL", "AUDIO"
PARTIAL = f"{ALL} (not all rows)"


@cache
def dimensions() -> dict[str, str]:
    """Return the dimension of each of the 58 instances."""
    return {instance: dimension for dimension, instance, *_ in instance_table()}


@cache
def instance_table() -> list[list[str]]:
    """Read the table of instances: dimension, name, older names."""
    lines = read_lines(Path(__file__).with_name("dynamic_superb.tsv"))
    return [line.split("\t") for _, line in lines if not line.startswith("#")][1:]


def instance_groups(have: Iterable[str], complete: bool) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return the available instances by dimension, and those that count overall, under the names of their means."""
    known = dimensions()
    available = {name: [i for i, own in known.items() if own == name and i in have] for name in known.values()}
    size = Counter(known.values())
    by_dimension = {
        name if len(members) == size[name] else f"{name} ({len(members)} of {size[name]})": members
        for name, members in available.items()
        if members
    }
    counted = [instance for name, members in available.items() if name != OUTSIDE for instance in members]
    total = len(known) - size[OUTSIDE]
    if len(counted) < total:
        return by_dimension, {f"mean of {len(counted)} of {total}": counted}
    return by_dimension, {ALL if complete else PARTIAL: counted}
