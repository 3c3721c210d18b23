"""Journal of a teacher check, a line per benchmark row, from which an interrupted check resumes."""

from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from caad_ds.utils.errors import UserError
from caad_ds.utils.journal import Journal


class CheckJournal(AbstractContextManager):
    """Lines `{stage, id, found}` in `<out>.partial.jsonl`, a `Journal`, and in memory.

    Without `out` in memory only.
    """

    def __init__(self, out: Path | None, settings: dict):
        self._journal = None if out is None else Journal(out.with_name(f"{out.name}.partial.jsonl"), settings)
        self._found: dict[tuple[str, str], Any] = {}
        self._held = ExitStack()

    @property
    def path(self) -> Path | None:
        """The file; None without `out`."""
        return None if self._journal is None else self._journal.path

    def __enter__(self) -> "CheckJournal":
        if self._journal is not None:
            with ExitStack() as stack:
                stack.enter_context(self._journal)
                self._found |= dict(_found(row, where) for where, _, row in self._journal.placed())
                self._held = stack.pop_all()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, where: TracebackType | None) -> None:
        self._held.close()

    def get(self, stage: str, name: str) -> Any:
        """Return the result of a row, or None."""
        return self._found.get((stage, name))

    def put(self, stage: str, found: dict[str, Any]) -> None:
        """Save results of rows; they survive a kill afterwards."""
        self._found |= {(stage, name): value for name, value in found.items()}
        if self._journal is not None:
            for name, value in found.items():
                self._journal.append({"stage": stage, "id": name, "found": value})

    def remove(self) -> None:
        """Remove the file, once the final result is on disk."""
        if self._journal is not None:
            self._journal.remove()


def _found(row: dict, where: str) -> tuple[tuple[str, str], Any]:
    try:
        return (row["stage"], row["id"]), row["found"]
    except KeyError as error:
        raise UserError(f"{where}: not a line of a check; remove the file to start over") from error
