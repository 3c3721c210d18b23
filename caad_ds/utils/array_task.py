"""A part of a manifest's records for one task of an array job."""

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """Every `count`-th item, from item `index` (from 0) on; all parts together are the whole."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Parse an argument such as `2/8`: part 2 of the parts 0 to 7."""
        index, _, count = text.partition("/")
        try:
            part = cls(int(index), int(count))
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not INDEX/COUNT, such as 0/8") from None
        if not 0 <= part.index < part.count:
            raise argparse.ArgumentTypeError(f"{text!r}: the parts of {part.count} are numbered from 0")
        return part

    def take(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the part's items."""
        return islice(items, self.index, None, self.count)

    def path(self, whole: Path) -> Path:
        """Return the path of a part's output: `answered.jsonl` -> `answered.00002-of-00008.jsonl`."""
        return whole.with_name(f"{whole.stem}.{self.index:05d}-of-{self.count:05d}{whole.suffix}")
