"""Speakers, or values of another column of the metadata, that shards and held-out data have in common."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from caad_ds.utils.text import comparable
from data_prep.verify.contents import shown

SPEAKERS = ("speaker", "speaker_id", "speaker_name", "spk", "spk_id", "client_id")  # as corpora call the column
NAMED = 10  # values in a line


@dataclass
class Values:
    """How many samples have each value of some columns; `samples` is their number with any value or none."""

    columns: Sequence[str] = ()
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    samples: int = 0

    def add(self, metadata: Mapping | None) -> None:
        """Count a sample's values."""
        self.samples += 1
        for column in self.columns:
            if (value := (metadata or {}).get(column)) is not None:
                self.counts.setdefault(column, Counter())[comparable(value)] += 1

    def merge(self, values: "Values") -> None:
        """Add what another one counted."""
        self.samples += values.samples
        for column, counter in values.counts.items():
            self.counts.setdefault(column, Counter()).update(counter)


@dataclass(frozen=True)
class Overlap:
    """What was compared of one column: the values `here` and `there`, those in both, and how many samples have them."""

    column: str
    here: int
    there: int
    shared: list[str]
    samples: int


def overlaps(here: Values, there: Values) -> Iterator[Overlap]:
    """Each column that is on both sides."""
    for column in here.columns:
        ours, theirs = here.counts.get(column), there.counts.get(column)
        if ours and theirs:
            shared = sorted(ours.keys() & theirs.keys())
            yield Overlap(column, len(ours), len(theirs), shared, sum(ours[value] for value in shared))


def faults(here: Values, there: Values, path: str, asked: bool) -> Iterator[str]:
    """What is on both sides, a line per column; where columns were `asked` for, also those that are missing."""
    compared = set()
    for found in overlaps(here, there):
        compared.add(found.column)
        if found.shared:
            names = ", ".join(map(shown, found.shared[:NAMED])) + ", ..." * (len(found.shared) > NAMED)
            yield (
                f"{path}: {len(found.shared)} of its {found.there} values of {found.column!r} are in the shards too, "
                f"in {found.samples} of {here.samples} samples: {names}"
            )
    for column in here.columns if asked else ():
        if column not in compared:
            lacking = "the shards have" if column not in here.counts else "it has"
            yield f"{path}: it cannot be compared by {column!r}: {lacking} no such metadata"


def compared(here: Values, there: Values, path: str) -> str:
    """What was compared and found apart, or that nothing was."""
    found = list(overlaps(here, there))
    apart = [f"{o.column} ({o.here} here, {o.there} there)" for o in found if not o.shared]
    if apart:
        return f"nothing in common with {path} in {', '.join(apart)}"
    return "" if found else f"speakers not compared with {path}: no column {', '.join(here.columns)} in both"
