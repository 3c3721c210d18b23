"""Journal and settings of a step, stored beside its output."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from caad_ds.utils.formatting import counted
from caad_ds.utils.journal import Journal


def journal_path(out: Path) -> Path:
    """Return the path of the journal of a step that writes `out`."""
    return out.with_suffix(".partial.jsonl")


def settings_path(out: Path) -> Path:
    """Return the path of the settings of a finished output."""
    return out.with_suffix(".settings.json")


@contextmanager
def step_journal(out: Path, settings: dict) -> Iterator[Journal]:
    """Open the journal of a step; print a line if it resumes an earlier run."""
    with Journal(journal_path(out), settings) as journal:
        if journal.count:
            print(f"{journal.path}: going on after {counted(journal.count, 'line')}")
        yield journal
