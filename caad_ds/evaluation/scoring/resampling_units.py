"""Resampling units: groups of items that are drawn, or exchanged between two systems, together.

Items that share a clip are not independent: a model that mishears the clip is wrong about all of them. So a unit is a
clip with every question about it, under every condition; if items have several clips, all items linked through them.
"""

from collections.abc import Iterable

import numpy as np

# With fewer units, even the most extreme exchange has p >= 0.05: 2 of the 2^5 exchanges are that extreme.
FEWEST = 6


def units_of(predictions: Iterable[dict]) -> dict[str, int]:
    """Return the unit of each item, by id; predictions without `clips` are units by themselves."""
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
    """Return the units of these items, int [items], renumbered from 0 without gaps."""
    return np.unique([units[name] for name in ids], return_inverse=True)[1]


def per_unit(values: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Sum over the items of each unit: [..., items] to float64 [..., units]; `unit` is int [items]."""
    order = np.argsort(unit, kind="stable")
    starts = np.flatnonzero(np.diff(unit[order], prepend=-1))
    return np.add.reduceat(np.asarray(values, np.float64)[..., order], starts, axis=-1)
