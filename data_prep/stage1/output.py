"""Read the output of Stage 1 in the order of the manifest (answered records, rejected ones), and count it by rule."""

from contextlib import suppress
from pathlib import Path

from caad_ds.data.record import Record, RecordFault, as_record
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import read_json
from caad_ds.utils.journal import same_settings
from data_prep.common.jsonl import Rejected, read_jsonl
from data_prep.common.rejects import Rejects, rejected_path
from data_prep.common.step_journal import settings_path
from data_prep.stage1.answer_checks import CHECKS
from data_prep.stage1.answer_table import AnswerTable
from data_prep.stage1.answers import RejectedAnswer


class Output:
    """Reader of `out` and its list of rejected records, item by item of the manifest; errors end with `remedy`."""

    def __init__(self, out: Path, remedy: str) -> None:
        self.out, self._remedy = out, remedy
        self._answered, self._rejected = Rows(out), Rows(rejected_path(out))

    def take(self, item: Record | Rejected) -> Record | Rejected:
        """Return the outcome for the next item: its record with the response, or a `Rejected`; else UserError."""
        identity = item.id if isinstance(item, Rejected) else item["id"]
        row = None if isinstance(item, Rejected) else self._answered.take(identity)
        if row is not None:
            try:
                return as_record(row)
            except RecordFault as fault:
                raise self._damaged(f"record {identity!r}: {fault}") from fault
        if (row := self._rejected.take(identity)) is not None:
            with suppress(TypeError):  # another tool's row
                return RejectedAnswer(**row) if "response" in row else Rejected(**row)
        raise self._damaged(f"record {identity!r} is not in its place")

    def end(self) -> None:
        """Raise UserError if there are rows beyond the manifest's items."""
        for rows in (self._answered, self._rejected):
            if rows.head is not None:
                raise self._damaged(f"record {rows.head.get('id')!r} is there twice, or not of this part")

    def _damaged(self, what: str) -> UserError:
        return UserError(f"{self.out}: {what}; {self._remedy}")


class Rows:
    """The rows of a file, taken in order by id; a missing file has none."""

    def __init__(self, path: Path) -> None:
        self._rows = read_jsonl(path) if path.exists() else iter(())
        self._advance()

    def take(self, identity: str) -> dict | None:
        """Return the next row if it has that id, else None."""
        if self.head is None or self.head.get("id") != identity:
            return None
        row = self.head
        self._advance()
        return row

    def _advance(self) -> None:
        self.head = next((row for _, row in self._rows), None)


def finished(out: Path, settings: dict) -> dict | None:
    """Return the settings of a finished output, None if it is not finished.

    UserError if they differ from `settings`; checks are compared only if `settings` has them.
    """
    stamp = settings_path(out)
    if not (out.exists() and stamp.exists()):
        return None
    stored = read_json(stamp, f"remove it and {out} to answer again")
    same_settings({name: stored[name] for name in stored if name not in CHECKS or name in settings}, settings, out)
    return stored


def summary(rejects: Rejects, table: AnswerTable) -> str:
    """Suffix for the last line: number of rejected records by rule."""
    if not table.rules:
        return ""
    counts = ", ".join(f"{count} {rule}" for rule, count in sorted(table.rules.items()))
    return f"; {rejects.count} rejected ({counts}), see {rejects.path}"
