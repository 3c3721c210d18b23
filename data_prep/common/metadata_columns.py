"""What the metadata of a manifest holds, for messages about a column that is not there or holds other values."""

from collections.abc import Iterable, Iterator

from caad_ds.data.record import Record
from caad_ds.utils.text import as_text
from data_prep.common.prompt_metadata import PROMPT

LISTED = 12  # so many values of a column, labels or names are listed


class Columns:
    """The metadata columns of the records that went through `watch`, and the first values of each."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, None]] = {}  # a dict, since its keys keep their order

    def watch(self, records: Iterable[Record]) -> Iterator[Record]:
        """The records."""
        for record in records:
            for name, value in (record.get("metadata") or {}).items():
                values = self._values.setdefault(name, {})
                if name != PROMPT and len(values) <= LISTED:
                    values[as_text(value)] = None
            yield record

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def tell(self, name: str) -> str:
        """The values of a column, or which columns there are instead."""
        if name in self:
            return f"{name!r} holds {first(list(self._values[name]))}"
        names = sorted(name for name in self._values if name != PROMPT)
        return f"no record has {name!r}; the columns are {first(names)}" if names else "the records have no metadata"


def first(items: list[str]) -> str:
    """Some items and the number of the others."""
    more = " and more" if len(items) > LISTED else ""
    return ", ".join(items[:LISTED]) + more
