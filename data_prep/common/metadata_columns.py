"""The metadata columns of a manifest, for messages about a missing column or unexpected values."""

from collections.abc import Iterable, Iterator

from caad_ds.data.record import Record
from caad_ds.utils.text import as_text
from data_prep.common.prompt_metadata import PROMPT

LISTED = 12  # values, labels or column names in a message, at most


class Columns:
    """Collects the metadata columns of the records passed through `watch`, with the first values of each."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, None]] = {}  # inner dict: an ordered set

    def watch(self, records: Iterable[Record]) -> Iterator[Record]:
        """Yield the records unchanged."""
        for record in records:
            for name, value in (record.get("metadata") or {}).items():
                values = self._values.setdefault(name, {})
                if name != PROMPT and len(values) <= LISTED:
                    values[as_text(value)] = None
            yield record

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def describe(self, name: str) -> str:
        """Describe the values of a column; if it is missing, list the existing columns."""
        if name in self:
            return f"{name!r} holds {first(list(self._values[name]))}"
        names = sorted(name for name in self._values if name != PROMPT)
        return f"no record has {name!r}; the columns are {first(names)}" if names else "the records have no metadata"


def first(items: list[str]) -> str:
    """Join the first items, with a note if there are more."""
    more = " and more" if len(items) > LISTED else ""
    return ", ".join(items[:LISTED]) + more
