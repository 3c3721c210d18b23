"""Units of items: what is drawn, or exchanged between two systems, as a whole.

Items that share a clip are not independent: who mishears the clip is wrong about all of them. So a unit is a clip with
every question about it, under every condition, and where items have several clips, all that are linked through them.
"""

from collections.abc import Iterable

import numpy as np

# With fewer, even the most extreme exchange has p >= 0.05: 2 of 2^5 exchanges are as extreme as they can be.
FEWEST = 6


def units_of(predictions: Iterable[dict]) -> dict[str, int]:
    """The unit of each item, by its id; predictions that name no `clips` are units by themselves."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = name = parent[parent[name]]
        return name

    roots = {}
    for prediction in predictions:
        item = f"item {prediction['id']}"
        roots[prediction["id"]] = item
        for clip in prediction.get("clips") or ():
            parent[root(f"clip {clip}")] = root(item)
    number: dict[str, int] = {}
    return {name: number.setdefault(root(item), len(number)) for name, item in roots.items()}


def numbered(units: dict[str, int], ids: Iterable[str]) -> np.ndarray:
    """The units of these items, int [items], numbered from 0 without gaps."""
    return np.unique([units[name] for name in ids], return_inverse=True)[1]


def per_unit(values: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Sums over the items of each unit: [..., items] to float64 [..., units]; `unit` is int [items]."""
    order = np.argsort(unit, kind="stable")
    starts = np.flatnonzero(np.diff(unit[order], prepend=-1))
    return np.add.reduceat(np.asarray(values, np.float64)[..., order], starts, axis=-1)
