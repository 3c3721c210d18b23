"""The journal and the settings of a step, beside its output."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from caad_ds.utils.journal import Journal
from caad_ds.utils.wording import counted


def journal_path(out: Path) -> Path:
    """Where the journal of a step that writes `out` lies."""
    return out.with_suffix(".partial.jsonl")


def settings_path(out: Path) -> Path:
    """Where the settings of a finished output lie."""
    return out.with_suffix(".settings.json")


@contextmanager
def step_journal(out: Path, settings: dict) -> Iterator[Journal]:
    """The journal of a step, open; says so where an earlier run has begun it."""
    with Journal(journal_path(out), settings) as journal:
        if journal.count:
            print(f"{journal.path}: going on after {counted(journal.count, 'line')}")
        yield journal
