"""The list of records that a step rejects, beside its output."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, TypeVar

from caad_ds.utils.fault_list import Faults
from caad_ds.utils.files import to_line, writing
from data_prep.common.jsonl import Rejected

T = TypeVar("T")


def rejected_path(out: Path) -> Path:
    """Return the path of the list of rejected records: `manifest.rejected.jsonl` beside `manifest.jsonl`."""
    return out.with_name(f"{out.stem}.rejected.jsonl")


class Rejects:
    """Context manager that writes the fields of each `Rejected` (`id`, `reason`, ...) to a list, which appears on exit.

    Without rejected records there is no file. `count` is their number, `first` the first one.
    """

    def __init__(self, out: Path) -> None:
        self.path = rejected_path(out)
        self.count = 0
        self.first: Rejected | None = None
        self._files = ExitStack()
        self._file: BinaryIO | None = None
        self._faults = Faults()

    def add(self, rejected: Rejected) -> None:
        """Add one to the list."""
        if self._file is None:
            self._file = self._files.enter_context(writing(self.path))
        self._file.write(to_line(vars(rejected)))
        self.count += 1
        self.first = self.first or rejected
        self._faults.add(rejected.id, rejected.reason)

    def sift(self, items: Iterable[T | Rejected]) -> Iterator[T]:
        """Yield the usable items; add the others to the list."""
        for item in items:
            if isinstance(item, Rejected):
                self.add(item)
            else:
                yield item

    def report(self) -> None:
        """Print the number of rejected records of each kind, with examples, to stderr."""
        if self.count:
            title = "record rejected" if self.count == 1 else "records rejected"
            print("\n".join(self._faults.lines(title, self.path)), file=sys.stderr)

    @property
    def summary(self) -> str:
        """Suffix for a step's last line."""
        return f"; {self.count} rejected, see {self.path}" if self.count else ""

    @property
    def why(self) -> str:
        """Suffix for the error of a step without any usable record."""
        return f", the first of {self.count}: {self.first.id}: {self.first.reason}" if self.first else ""

    def __enter__(self) -> "Rejects":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.__exit__(kind, error, trace)
        if not self.count and error is None:
            self.path.unlink(missing_ok=True)
