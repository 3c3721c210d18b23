"""The entries of an index, stored in columns: as objects they would take four times as much memory."""

from abc import abstractmethod
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from operator import eq
from typing import Annotated, ClassVar, overload

from pydantic import ConfigDict, Field

Count = Annotated[int, Field(ge=0, lt=1 << 63)]


@dataclass(frozen=True, slots=True)
class SampleEntry:
    """One sample: `offset` and `size` in bytes of its members inside the tar, `seconds` of audio, `tokens` of text
    (an estimate), `pcm` the sha256 of its decoded 16-bit samples. pydantic validates it when it reads one."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    key: str
    offset: Count
    size: Annotated[int, Field(gt=0, lt=1 << 63)]
    seconds: Annotated[float, Field(ge=0)]
    tokens: Count
    pcm: str


class _Entries(Sequence[SampleEntry]):
    """A sequence of entries that makes them on access; equal to any other sequence of the same entries."""

    __slots__ = ()

    @abstractmethod
    def at(self, number: int) -> SampleEntry:
        """Return the entry at an index from 0 to the length, without a check."""

    @overload
    def __getitem__(self, index: int) -> SampleEntry: ...
    @overload
    def __getitem__(self, index: slice) -> list[SampleEntry]: ...
    def __getitem__(self, index: int | slice) -> SampleEntry | list[SampleEntry]:
        numbers = range(len(self))[index]
        return self.at(numbers) if isinstance(numbers, int) else [self.at(number) for number in numbers]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))


class Table(_Entries):
    """The entries of a shard, with a column of text or numbers per field."""

    __slots__ = ("_ends", "_keys", "_numbers", "_pcm", "_seconds")

    def __init__(self, entries: Iterable[SampleEntry]) -> None:
        entries = list(entries)
        keys, pcm = [entry.key for entry in entries], [entry.pcm for entry in entries]
        self._keys, self._pcm = "".join(keys), "".join(pcm)
        self._ends = [array("q", accumulate(map(len, texts), initial=0)) for texts in (keys, pcm)]
        self._seconds = array("d", (entry.seconds for entry in entries))
        self._numbers = array("q", chain.from_iterable((e.offset, e.size, e.tokens) for e in entries))

    def __len__(self) -> int:
        return len(self._seconds)

    def at(self, number: int) -> SampleEntry:
        keys, pcm = self._ends
        offset, size, tokens = self._numbers[3 * number : 3 * number + 3]
        return SampleEntry(
            self._keys[keys[number] : keys[number + 1]],
            offset,
            size,
            self._seconds[number],
            tokens,
            self._pcm[pcm[number] : pcm[number + 1]],
        )

    def __iter__(self) -> Iterator[SampleEntry]:
        return map(self.at, range(len(self)))


class Chain(_Entries):
    """The entries of several sequences, one after another."""

    __slots__ = ("_ends", "_parts")

    def __init__(self, parts: Iterable[Sequence[SampleEntry]]) -> None:
        self._parts = list(parts)
        self._ends = list(accumulate(map(len, self._parts)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def part_of(self, number: int) -> tuple[int, int]:
        """Return (the part that holds an entry, its index in the part)."""
        part = bisect_right(self._ends, number)
        return part, number - (self._ends[part - 1] if part else 0)

    def at(self, number: int) -> SampleEntry:
        part, index = self.part_of(number)
        return self._parts[part][index]

    def __iter__(self) -> Iterator[SampleEntry]:
        return chain.from_iterable(self._parts)
