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
    """Sample counts by value, for each of `columns`; `samples` counts every sample, with a value or without."""

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
        """Add the counts of another instance."""
        self.samples += values.samples
        for column, counter in values.counts.items():
            self.counts.setdefault(column, Counter()).update(counter)


@dataclass(frozen=True)
class Overlap:
    """Comparison of one column: numbers of values `here` and `there`, the `shared` values, samples that have those."""

    column: str
    here: int
    there: int
    shared: list[str]
    samples: int


def overlaps(here: Values, there: Values) -> Iterator[Overlap]:
    """Yield the overlap of each column that both sides have."""
    for column in here.columns:
        ours, theirs = here.counts.get(column), there.counts.get(column)
        if ours and theirs:
            shared = sorted(ours.keys() & theirs.keys())
            yield Overlap(column, len(ours), len(theirs), shared, sum(ours[value] for value in shared))


def faults(here: Values, there: Values, path: str, named: bool) -> Iterator[str]:
    """Yield a line per column with shared values; if the user `named` the columns, also one per missing column."""
    compared = set()
    for overlap in overlaps(here, there):
        compared.add(overlap.column)
        if overlap.shared:
            names = ", ".join(map(shown, overlap.shared[:NAMED])) + ", ..." * (len(overlap.shared) > NAMED)
            yield (
                f"{path}: {len(overlap.shared)} of its {overlap.there} values of {overlap.column!r} are in the shards "
                f"too, in {overlap.samples} of {here.samples} samples: {names}"
            )
    for column in here.columns if named else ():
        if column not in compared:
            lacking = "the shards have" if column not in here.counts else "it has"
            yield f"{path}: it cannot be compared by {column!r}: {lacking} no such metadata"


def compared(here: Values, there: Values, path: str) -> str:
    """Describe which columns are disjoint, or that none could be compared."""
    found = list(overlaps(here, there))
    apart = [f"{o.column} ({o.here} here, {o.there} there)" for o in found if not o.shared]
    if apart:
        return f"nothing in common with {path} in {', '.join(apart)}"
    return "" if found else f"speakers not compared with {path}: no column {', '.join(here.columns)} in both"
