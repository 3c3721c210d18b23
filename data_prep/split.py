"""`prep split`: divide a manifest by metadata into named manifests, for example by disjoint speakers.

The rules are a YAML list. A record belongs to a split if its metadata has one of the values listed for each key of
`where`, and if the hash of its metadata value `hash_of` lies in [`from`, `to`). Records that share that value stay
together, whatever else is in the manifest. A rule needs at least one of the two. Values are compared as
`caad_ds.utils.text.comparable` writes them: 2019, "2019" and pandas' 2019.0 are equal.

    - {name: czech/teacher, where: {language: [Czech]}, hash_of: level, from: 0.0, to: 0.4}
    - {name: slovak, where: {language: [Slovak]}}

writes `czech/teacher.jsonl` and `slovak.jsonl`. The part before the slash names a run: within one run no record may be
in two splits.
"""

import argparse
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from caad_ds.data.record import Record
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import read_yaml
from caad_ds.utils.formatting import counted
from caad_ds.utils.text import comparable
from data_prep.common.hashing import fraction
from data_prep.common.jsonl import Rejected
from data_prep.common.manifest import ManifestWriter, check_output, read_manifest
from data_prep.common.metadata_columns import Columns
from data_prep.common.rejects import Rejects

Share = Annotated[float, Field(ge=0, le=1)]


class Rule(BaseModel):
    """The rule for the records of one split."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)?$")]
    where: dict[str, list[str]] = {}
    hash_of: str | None = None
    start: Share = Field(0.0, alias="from")
    end: Share = Field(1.0, alias="to")

    @model_validator(mode="after")
    def _has_a_condition(self) -> "Rule":
        if self.hash_of is None and (self.start, self.end) != (0.0, 1.0):
            raise ValueError(f"split {self.name!r}: 'from' and 'to' divide by the hash of a key; name it in 'hash_of'")
        if self.hash_of is None and not self.where:
            raise ValueError(f"split {self.name!r}: it takes every record; give 'where', 'hash_of' or both")
        return self

    def matches(self, record: Record) -> bool:
        """Return whether a record's metadata satisfies `where`."""
        metadata = record.get("metadata") or {}
        return all(
            key in metadata and comparable(metadata[key]) in map(comparable, values)
            for key, values in self.where.items()
        )


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `prep split`."""
    parser.add_argument("--manifest", type=Path, required=True, help="manifest to divide (JSONL)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the manifests")
    parser.add_argument("--rules", type=Path, required=True, help="YAML list of splits")


def run(args: argparse.Namespace) -> int:
    """Split the manifest; returns the exit status."""
    split(args.manifest, args.out, args.rules)
    return 0


def split(manifest: Path, out: Path, rule_file: Path) -> None:
    """Write one manifest per rule into the folder `out`, and `<manifest>.split.rejected.jsonl`; print their sizes.

    UserError for a rule that no record matches, and if two splits of one run share a record.
    """
    rules = read_rules(rule_file)
    paths = {rule.name: out / f"{rule.name}.jsonl" for rule in rules}
    for path in paths.values():
        check_output(path, manifest)
    # Not `<manifest>.rejected.jsonl`: that may be the list of the step that wrote the manifest.
    with ExitStack() as stack:
        rejects = stack.enter_context(Rejects(out / f"{manifest.stem}.split.jsonl"))
        splits = {name: stack.enter_context(ManifestWriter(path)) for name, path in paths.items()}
        unused = 0
        columns = Columns()
        for record in columns.watch(rejects.sift(read_manifest(manifest, "split"))):
            names = splits_of(record, rules)
            if isinstance(names, Rejected):
                rejects.add(names)
                continue
            unused += not names
            for name in names:
                splits[name].write(record)
        for rule in rules:
            if not splits[rule.name].count:
                columns_note = "".join(f"; {columns.describe(key)}" for key in rule.where)
                raise UserError(
                    f"{rule_file}: split {rule.name!r} is empty, no record matches its rule: widen its 'from' and "
                    f"'to' (a few values may all be hashed elsewhere), or its 'where'{columns_note}{rejects.why}"
                )
    rejects.report()
    for writer in splits.values():
        print(f"{writer.path}: {counted(writer.count, 'record')}")
    print(f"{manifest}: {counted(unused, 'record')} in no split{rejects.summary}")


def read_rules(path: Path) -> list[Rule]:
    """Load the rules of a YAML file; UserError names the mistakes."""
    return read_yaml(path, list[Rule])


def splits_of(record: Record, rules: list[Rule]) -> list[str] | Rejected:
    """Return the splits of a record, or a `Rejected` if it lacks the value that a rule hashes.

    UserError if it is in two splits of one run.
    """
    taken: dict[PurePosixPath, str] = {}
    for rule in rules:
        if not rule.matches(record):
            continue
        if rule.hash_of is not None:
            if (value := (record.get("metadata") or {}).get(rule.hash_of)) is None:
                return Rejected(
                    record["id"], f"it has no metadata {rule.hash_of!r}, which split {rule.name!r} asks for"
                )
            if not rule.start <= fraction(comparable(value)) < rule.end:
                continue
        first = taken.setdefault(PurePosixPath(rule.name).parent, rule.name)
        if first != rule.name:
            raise UserError(
                f"record {record['id']!r} is in both {first!r} and {rule.name!r}: make their rules disjoint"
            )
    # Different runs may share a record.
    return list(taken.values())
