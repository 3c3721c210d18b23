"""What a benchmark asks: items, each a prompt about one or several clips, and their right answers."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

from caad_ds.data.audio import decode
from caad_ds.data.audio.levels import Levels
from caad_ds.evaluation.benchmarks.hf_datasets import FAULTS, Cell, value
from caad_ds.utils.files import file_hash
from caad_ds.utils.text import trimmed


class Fault(Exception):
    """Why a row of a benchmark cannot be asked."""


def text_of(value: object) -> str | None:
    """A text without the white space and invisible marks around it, a number or a boolean as JSON writes it (a whole
    number without its fraction); None where it is something else, no number, or empty."""
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
        """float32 mono 16 kHz [samples]; raises AudioError if it is missing or does not decode."""
        return self.measured()[0]

    def measured(self) -> tuple[np.ndarray, Levels]:
        """What `load` gives, and the levels that rules judge."""
        return decode.measured(self._source())

    def read(self) -> bytes:
        """The audio's bytes as they are kept; raises AudioError or OSError where they cannot be read."""
        source = self._source()
        return source.getvalue() if isinstance(source, BytesIO) else source.read_bytes()

    def sha256(self) -> str:
        """Of the audio's bytes as they are kept; of what cannot be read, which no item will be asked about, ""."""
        try:
            return file_hash(self._source())
        except (decode.AudioError, OSError):
            return ""

    def _source(self) -> Path | BytesIO:
        if self.cell is None:
            return self.path
        try:
            held = value(self.path, self.cell)
        except FAULTS as error:
            raise decode.AudioError(str(error)) from error
        if isinstance(held, dict) and held.get("bytes"):
            return BytesIO(held["bytes"])
        if isinstance(held, dict) and held.get("path"):
            return self.path.parent / held["path"]
        raise decode.AudioError("the cell holds neither bytes nor a path")


@dataclass(frozen=True)
class Item:
    """One prompt: `messages` as chat templates take them, with `<|AUDIO|>` once per clip, in the clips' order.

    `condition` is None in benchmarks that know none; `question` is the text that a person would be asked, without
    marks of audio and without the `hint` that precedes it under some conditions. `choices` are the answers to choose
    from, in their order, where the benchmark has them as a list; else its subset's are known (`Benchmark.options`).
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
        """Its own name among the items; conditions of a row share an `id`."""
        return f"{self.id}:{self.condition}"


@dataclass(frozen=True)
class BenchmarkRow:
    """A row of a benchmark: its items, one under each condition in the benchmark's order."""

    variants: tuple[Item, ...]

    @property
    def id(self) -> str:
        """That of its items."""
        return self.variants[0].id

    @property
    def subset(self) -> str:
        """That of its items."""
        return self.variants[0].subset

    @property
    def gt(self) -> str:
        """The right answer."""
        return self.variants[0].gt

    @property
    def choices(self) -> tuple[str, ...]:
        """The answers to choose from where the row has its own."""
        return self.variants[0].choices

    def items(self) -> Iterator[Item]:
        """The row under each condition."""
        return iter(self.variants)


def rows_of(items: Iterable[Item]) -> list[BenchmarkRow]:
    """The rows that items are of, in order of appearance."""
    found: dict[str, list[Item]] = {}
    for item in items:
        found.setdefault(item.id, []).append(item)
    return [BenchmarkRow(tuple(ours)) for ours in found.values()]


def parted(read: Iterable[Item | dict]) -> tuple[list[Item], list[dict]]:
    """The items and the rejected rows of what a benchmark's files gave."""
    items, rejected = [], []
    for each in read:
        items.append(each) if isinstance(each, Item) else rejected.append(each)
    return items, rejected


def first_reason(rejected: Sequence[dict]) -> str:
    """What a message says of rows of which none can be used."""
    return f"{rejected[0]['id']}: {rejected[0]['reason']}" if rejected else "there is none"


def by_subset(items: Iterable[Item]) -> dict[str, list[Item]]:
    """The items of each subset, in the order in which they come."""
    found: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        found[item.subset].append(item)
    return found
