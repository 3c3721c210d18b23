"""Items of a benchmark, each a prompt about one or several clips with its right answer."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

from caad_ds.data.audio import decode
from caad_ds.data.audio.usable_audio import Levels
from caad_ds.evaluation.benchmarks.hf_datasets import FAULTS, Cell, value
from caad_ds.utils.files import file_hash
from caad_ds.utils.text import trimmed


class Fault(Exception):
    """Why a row of a benchmark cannot be used."""


def text_of(value: object) -> str | None:
    """Return a value as text: a string without surrounding white space and invisible marks, a number or boolean as in
    JSON (2.0 as 2); None if it is empty, not finite, or of another type."""
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() else repr(value) if math.isfinite(value) else None
    return trimmed(str(value)) or None if isinstance(value, str | int) else None


@dataclass(frozen=True)
class Clip:
    """One audio: a file, or a cell of a Parquet or Arrow file; `text` is its transcription, "" where none is known."""

    path: Path
    text: str = ""
    cell: Cell | None = None

    def __str__(self) -> str:
        return str(self.path) if self.cell is None else f"{self.path} row {self.cell.row} {self.cell.column}"

    def load(self) -> np.ndarray:
        """Return float32 mono 16 kHz [samples]; raises AudioError if it is missing or does not decode."""
        return self.measured()[0]

    def measured(self) -> tuple[np.ndarray, Levels]:
        """Return the samples of `load` and their levels."""
        return decode.measured(self._source())

    def read(self) -> bytes:
        """Return the audio's stored bytes; raises AudioError or OSError if they cannot be read."""
        source = self._source()
        return source.getvalue() if isinstance(source, BytesIO) else source.read_bytes()

    def sha256(self) -> str:
        """Return the hash of the audio's stored bytes; "" if they cannot be read, whose items are rejected later."""
        try:
            return file_hash(self._source())
        except (decode.AudioError, OSError):
            return ""

    def _source(self) -> Path | BytesIO:
        if self.cell is None:
            return self.path
        try:
            content = value(self.path, self.cell)
        except FAULTS as error:
            raise decode.AudioError(str(error)) from error
        if isinstance(content, dict) and content.get("bytes"):
            return BytesIO(content["bytes"])
        if isinstance(content, dict) and content.get("path"):
            return self.path.parent / content["path"]
        raise decode.AudioError("the cell holds neither bytes nor a path")


@dataclass(frozen=True)
class Item:
    """One prompt: `messages` for a chat template, with `<|AUDIO|>` once per clip, in the clips' order.

    `condition` is None in benchmarks without conditions. `question` has neither audio marks nor the `hint` that
    precedes it under some conditions. `choices` are the row's own choices, in order; without them those of its subset
    apply (`Benchmark.options`).
    """

    id: str
    subset: str
    condition: str | None
    clips: tuple[Clip, ...]
    messages: Sequence[dict]
    question: str
    gt: str
    hint: str | None = None
    choices: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The unique name of the item; the conditions of a row share an `id`."""
        return f"{self.id}:{self.condition}"


@dataclass(frozen=True)
class BenchmarkRow:
    """A row of a benchmark: its items, one per condition, in the benchmark's order."""

    variants: tuple[Item, ...]

    @property
    def id(self) -> str:
        """The id of its items."""
        return self.variants[0].id

    @property
    def subset(self) -> str:
        """The subset of its items."""
        return self.variants[0].subset

    @property
    def gt(self) -> str:
        """The right answer."""
        return self.variants[0].gt

    @property
    def choices(self) -> tuple[str, ...]:
        """The row's own choices, if any."""
        return self.variants[0].choices

    def items(self) -> Iterator[Item]:
        """Return an iterator over the row's items."""
        return iter(self.variants)


def rows_of(items: Iterable[Item]) -> list[BenchmarkRow]:
    """Group items into rows, in order of appearance."""
    found: dict[str, list[Item]] = {}
    for item in items:
        found.setdefault(item.id, []).append(item)
    return [BenchmarkRow(tuple(variants)) for variants in found.values()]


def parted(read: Iterable[Item | dict]) -> tuple[list[Item], list[dict]]:
    """Split the rows read from a benchmark's files into items and rejected rows."""
    items, rejected = [], []
    for row in read:
        items.append(row) if isinstance(row, Item) else rejected.append(row)
    return items, rejected


def first_reason(rejected: Sequence[dict]) -> str:
    """Describe the first rejected row, for the message that no row can be used."""
    return f"{rejected[0]['id']}: {rejected[0]['reason']}" if rejected else "there is none"


def by_subset(items: Iterable[Item]) -> dict[str, list[Item]]:
    """Return the items of each subset, in order of appearance."""
    found: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        found[item.subset].append(item)
    return found
