"""What a long step has done so far: an append-only file, so that a step that was killed goes on where it stopped."""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from caad_ds.errors import UserError
from caad_ds.files import disk_errors, drop_cut_line
from data_prep.jsonl import read_jsonl, to_line, write_jsonl


class Journal:
    """A line per finished piece of work in `<out stem>.partial.jsonl`, after a line with the settings it depends on.

    A context: lines are appended while it is open. `count` is the number of lines. Opened again it goes on, without
    a last line that a kill cut short; UserError if the settings are others.
    """

    def __init__(self, out: Path, settings: dict) -> None:
        self.path = out.with_suffix(".partial.jsonl")
        self._settings = settings
        self.count = 0

    def __enter__(self) -> "Journal":
        if self.path.exists():
            drop_cut_line(self.path)
        self.count = sum(1 for _ in self._rows(self._settings)) if self.path.exists() else 0
        if not self.count:
            write_jsonl(self.path, [self._settings])
        else:
            print(f"{self.path}: going on after {self.count} lines")
        with disk_errors(self.path.parent):
            self._file = open(self.path, "a", encoding="utf-8")
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, where: TracebackType | None) -> None:
        with disk_errors(self.path.parent):
            self._file.close()

    def append(self, value: dict) -> None:
        """Write a line and hand it to the system: a kill after that does not lose it."""
        with disk_errors(self.path.parent):
            self._file.write(to_line(value))
            self._file.flush()
        self.count += 1

    def __iter__(self) -> Iterator[dict]:
        return self._rows(self._settings)

    def remove(self) -> None:
        """Remove the file, when what it was kept for is on disk."""
        self.path.unlink()

    def _rows(self, settings: dict) -> Iterator[dict]:
        rows = read_jsonl(self.path)
        for _, made in rows:
            same_settings(made, settings, self.path)
            break
        for _, row in rows:
            yield row


def same_settings(made: dict, settings: dict, path: Path) -> None:
    """UserError unless a file was made under these settings: what it holds may have cost GPU hours, so it is not
    replaced unasked."""
    if changed := [key for key in made | settings if made.get(key) != settings.get(key)]:
        raise UserError(f"{path}: it was made with another {', '.join(changed)}; choose another --out, or remove it")
