"""What a long step has done so far: an append-only file, so that a step that was killed resumes where it stopped."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from caad_ds.utils.errors import UserError
from caad_ds.utils.files import disk_errors, drop_cut_line, sole_writer, to_line, write_atomic
from caad_ds.utils.progress import waiting
from caad_ds.utils.text import decode_line, numbered


class Journal:
    """A line of JSON per finished piece of work, after a line with the settings it depends on.

    A context: lines are appended while it is open, by this process alone. `count` is the number of lines. Opened again
    it resumes, without a last line that a kill cut short; UserError if the settings are others, or another process has
    it open.
    """

    def __init__(self, path: Path, settings: dict) -> None:
        self.path = path
        self._settings = settings
        self.count = 0

    def __enter__(self) -> "Journal":
        with ExitStack() as stack:
            stack.enter_context(sole_writer(self.path))
            self._open()
            self._held = stack.pop_all()
        return self

    def _open(self) -> None:
        if self.path.exists():
            drop_cut_line(self.path)
        with waiting(f"reading {self.path}"):
            self.count = sum(1 for _ in self.placed()) if self.path.exists() else 0
        if not self.count:
            write_atomic(self.path, to_line(self._settings))
        with disk_errors(self.path.parent):
            self._file = open(self.path, "ab")
            self._lines = open(self.path, "rb")

    def __exit__(self, kind: type | None, error: BaseException | None, where: TracebackType | None) -> None:
        with self._held:
            self._lines.close()
            with disk_errors(self.path.parent):
                self._file.close()

    def append(self, value: dict) -> int:
        """Write a line and hand it to the system: a kill after that does not lose it. Returns its place."""
        with disk_errors(self.path.parent):
            place = self._file.tell()
            self._file.write(to_line(value))
            self._file.flush()
        self.count += 1
        return place

    def read(self, place: int) -> dict:
        """The line at a place that `append` or `placed` gave."""
        self._lines.seek(place)
        return json.loads(self._lines.readline())

    def placed(self) -> Iterator[tuple[str, int, dict]]:
        """Each line with its name for an error, and its place."""
        made: dict | None = None
        place = 0
        for number, line in numbered(self.path):
            where = f"{self.path} line {number}"
            row = _row(line, where)
            if number == 1:
                made = row
            else:
                if made is not None:  # only where there is something to lose: a start that failed at once binds nothing
                    same_settings(made, self._settings, self.path)
                    made = None
                yield where, place, row
            place += len(line)

    def rewind(self, count: int) -> None:
        """Drop all but the first `count` lines: the work of the others is to be done again."""
        with open(self.path, "rb") as file:
            for _ in range(1 + count):  # the settings come first
                file.readline()
            end = file.tell()
        with disk_errors(self.path.parent):
            self._file.truncate(end)
            self._file.seek(end)
        self.count = count

    def __iter__(self) -> Iterator[dict]:
        return (row for _, _, row in self.placed())

    def remove(self) -> None:
        """Remove the file, when what it was kept for is on disk; to be called inside, so that no other takes it up.

        A process that found the output finished may have removed it already.
        """
        self.path.unlink(missing_ok=True)


def changed_keys(made: dict, settings: dict) -> list[str]:
    """The keys that differ, or that one of two settings lacks."""
    return [key for key in made | settings if made.get(key) != settings.get(key)]


def same_settings(made: dict, settings: dict, path: Path) -> None:
    """UserError unless a file was made under these settings: what it holds may have cost GPU hours, so it is not
    replaced unasked."""
    if changed := changed_keys(made, settings):
        raise UserError(f"{path}: it was made with another {', '.join(changed)}; choose another --out, or remove it")


def _row(line: bytes, where: str) -> dict:
    try:
        row = json.loads(decode_line(line))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: it is not JSON ({error}); remove the file to start over") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: it is no JSON object; remove the file to start over")
    return row
