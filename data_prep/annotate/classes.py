"""Classes of numbers: `pitch_hz: 118.3` becomes `pitch: low`, which instructions can ask about.

A YAML file maps the metadata key of a class to the key of its number (`of`), its `labels` from low to high and the
limits between them: `thresholds`, or `quantiles` of the manifest's numbers.

    pitch: {of: pitch_hz, labels: [low, medium, high], thresholds: [140, 180]}
    speaking_rate: {of: syllables_per_second, labels: [slow, fast], quantiles: [0.5]}
"""

import math
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from caad_ds.data.record import Record
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import read_yaml


class Scale(BaseModel):
    """How a number is classified; a number equal to a threshold gets the label above it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    of: str
    labels: Annotated[list[str], Field(min_length=2)]
    thresholds: list[FiniteFloat] = []
    quantiles: list[Annotated[float, Field(gt=0, lt=1)]] = []

    @model_validator(mode="after")
    def _consistent(self) -> "Scale":
        if bool(self.thresholds) == bool(self.quantiles):
            raise ValueError("give either thresholds or quantiles")
        limits = self.thresholds or self.quantiles
        if len(limits) != len(self.labels) - 1:
            raise ValueError(f"{len(self.labels)} labels need {len(self.labels) - 1} limits, not {len(limits)}")
        if any(low >= high for low, high in pairwise(limits)):
            raise ValueError("the limits must rise")
        return self

    def at(self, limits: list[float]) -> "Scale":
        """Return this scale with thresholds in place of its quantiles."""
        return self.model_copy(update={"thresholds": limits, "quantiles": []})

    def label(self, value: object) -> str | None:
        """Return the label of a number, None for anything else."""
        number = number_of(value)
        return None if number is None else self.labels[bisect_right(self.thresholds, number)]

    def summary(self, labels: Counter[str]) -> str:
        """Return thresholds and label counts as text: `low (12) < 140 <= medium (30) < 180 <= high (9)`."""
        text = f"{self.labels[0]} ({labels[self.labels[0]]})"
        for limit, label in zip(self.thresholds, self.labels[1:], strict=True):
            text += f" < {limit:g} <= {label} ({labels[label]})"
        others = labels.total() - sum(labels[label] for label in self.labels)
        return text + (f"; {others} without" if others else "")


def read_scales(path: Path) -> dict[str, Scale]:
    """Load the classes of a YAML file by metadata key; UserError names the mistakes."""
    scales = read_yaml(path, dict[str, Scale])
    for key, scale in scales.items():
        if scale.of in scales:
            raise UserError(f"{path}: {key}: {scale.of!r} is itself a class; give the key of a number")
    return scales


def settle(scales: dict[str, Scale], records: Iterable[Record]) -> dict[str, Scale]:
    """Return the scales with quantiles of the records' numbers as thresholds; holds 8 bytes per number."""
    values = {scale.of: array("d") for scale in scales.values() if scale.quantiles}
    if not values:
        return scales
    for record in records:
        for key, known in values.items():
            if (number := number_of((record.get("metadata") or {}).get(key))) is not None:
                known.append(number)
    return {key: _settled(scale, values.get(scale.of)) for key, scale in scales.items()}


def number_of(value: object) -> float | None:
    """Return a metadata value as a number, parsed if it is text (all values of a CSV are).

    None for anything else, such as booleans, and for integers beyond floating point.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _settled(scale: Scale, values: array | None) -> Scale:
    if not scale.quantiles or values is None:
        return scale
    limits = np.quantile(np.frombuffer(values), scale.quantiles) if values else np.zeros(len(scale.quantiles))
    return scale.at(limits.tolist())
