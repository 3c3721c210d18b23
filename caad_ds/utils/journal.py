"""An append-only journal of a long step, from which a killed step resumes."""

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

    A context: lines are appended while it is open, only by this process. `count` is the number of lines. Opened again
    it resumes, without a truncated last line; UserError if the settings differ, or another process has it open.
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
        """Write and flush a line, which then survives a kill; return its offset."""
        with disk_errors(self.path.parent):
            offset = self._file.tell()
            self._file.write(to_line(value))
            self._file.flush()
        self.count += 1
        return offset

    def read(self, offset: int) -> dict:
        """Read the line at an offset from `append` or `placed`."""
        self._lines.seek(offset)
        return json.loads(self._lines.readline())

    def placed(self) -> Iterator[tuple[str, int, dict]]:
        """Yield (location for an error, offset, row) of each line."""
        stored: dict | None = None
        offset = 0
        for number, line in numbered(self.path):
            where = f"{self.path} line {number}"
            row = _row(line, where)
            if number == 1:
                stored = row
            else:
                if stored is not None:  # only if there are rows: settings of a failed start do not matter
                    same_settings(stored, self._settings, self.path)
                    stored = None
                yield where, offset, row
            offset += len(line)

    def rewind(self, count: int) -> None:
        """Drop all but the first `count` lines: the work of the others is repeated."""
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
        """Remove the file once its output is on disk; call it inside the context, before another process resumes it.

        A process that found the output finished may have removed it already.
        """
        self.path.unlink(missing_ok=True)


def changed_keys(stored: dict, settings: dict) -> list[str]:
    """Return the keys that differ between two settings, or that one lacks."""
    return [key for key in stored | settings if stored.get(key) != settings.get(key)]


def same_settings(stored: dict, settings: dict, path: Path) -> None:
    """Raise UserError unless a file was made with these settings: it may have cost GPU hours, and is not replaced
    silently."""
    if changed := changed_keys(stored, settings):
        raise UserError(f"{path}: it was made with another {', '.join(changed)}; choose another --out, or remove it")


def _row(line: bytes, where: str) -> dict:
    try:
        row = json.loads(decode_line(line))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: it is not JSON ({error}); remove the file to start over") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: it is no JSON object; remove the file to start over")
    return row
