"""What a check of a teacher has found so far, a line for each row of the benchmark, so that it resumes after a kill."""

import json
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from caad_ds.utils.errors import UserError
from caad_ds.utils.files import disk_errors, drop_cut_line, sole_writer, write_atomic
from caad_ds.utils.text import read_lines


class CheckJournal(AbstractContextManager):
    """Lines `{stage, id, found}` in `<out>.partial.jsonl`, after one with the settings that decide them.

    Without `out` it keeps all in memory alone. Opened again it resumes, without a last line that a kill cut short;
    UserError if the settings are others, or another process has it open.
    """

    def __init__(self, out: Path | None, settings: dict):
        self.path = None if out is None else out.with_name(f"{out.name}.partial.jsonl")
        self._settings = settings
        self._found: dict[tuple[str, str], Any] = {}
        self._held = ExitStack()

    def __enter__(self) -> "CheckJournal":
        if self.path is not None:
            with ExitStack() as stack:
                stack.enter_context(sole_writer(self.path))
                self._open(self.path)
                self._held = stack.pop_all()
        return self

    def _open(self, path: Path) -> None:
        if path.exists():
            drop_cut_line(path)
            self._read(path)
        if not self._found:  # a start that failed at once binds nothing
            write_atomic(path, _line(self._settings))
        with disk_errors(path.parent):
            self._file = open(path, "ab")

    def _read(self, path: Path) -> None:
        settings: dict = {}
        for number, text in read_lines(path):
            try:
                line = json.loads(text)
                if number == 1:
                    settings = dict(line)
                else:
                    self._found[line["stage"], line["id"]] = line["found"]
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise UserError(f"{path}:{number}: not a line of a check; remove the file to start over") from error
        changed = [key for key in settings | self._settings if settings.get(key) != self._settings.get(key)]
        if self._found and changed:
            raise UserError(
                f"{path}: was begun with another {', '.join(changed)}; use another --out, or remove it to start over"
            )

    def __exit__(self, kind: type | None, error: BaseException | None, where: TracebackType | None) -> None:
        with self._held:
            if self.path is not None:
                self._file.close()

    def get(self, stage: str, name: str) -> Any:
        """What was found for a row, or None."""
        return self._found.get((stage, name))

    def put(self, stage: str, found: dict[str, Any]) -> None:
        """Keep what was found for rows; a kill after that does not lose it."""
        self._found |= {(stage, name): value for name, value in found.items()}
        if self.path is not None:
            with disk_errors(self.path.parent):
                for name, value in found.items():
                    self._file.write(_line({"stage": stage, "id": name, "found": value}))
                self._file.flush()

    def remove(self) -> None:
        """Remove the file, once what it was kept for is on disk."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _line(value: dict) -> bytes:
    return (json.dumps(value, ensure_ascii=False) + "\n").encode()
