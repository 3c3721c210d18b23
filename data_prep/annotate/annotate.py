"""`prep annotate`: measures of the audio become metadata, for attributes that a corpus has no labels of."""

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from caad_ds.data.audio.decode import AudioError
from caad_ds.data.audio.levels import Rules, add_rules
from caad_ds.utils.command import positive
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import read_json, write_json, write_jsonl
from caad_ds.utils.journal import Journal, same_settings
from caad_ds.utils.progress import progress, waiting
from caad_ds.utils.text import as_text
from data_prep.annotate import annotators
from data_prep.annotate.classes import Scale, read_scales, settle
from data_prep.common.audio_entry import usable_waveform
from data_prep.common.journal import step_journal
from data_prep.common.jsonl import Rejected, count_lines
from data_prep.common.manifest import check_output, manifest_hash, read_manifest, write_manifest
from data_prep.common.parallel import ordered
from data_prep.common.rejects import Rejects

ANY_LENGTH = Rules()


@dataclass(frozen=True)
class Measured:
    """What the annotators found in one record: metadata, and by annotator why there is none."""

    id: str
    values: dict[str, float | str]
    missing: dict[str, str]


def register(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    known = f"of {', '.join(annotators.names())}, or package.module of your own"
    parser.add_argument("--manifest", type=Path, required=True, help="what `prep ingest` wrote")
    parser.add_argument("--out", type=Path, required=True, help="the manifest to write")
    parser.add_argument("--annotators", nargs="+", default=[], metavar="NAME", help=known)
    parser.add_argument("--classes", type=Path, metavar="FILE", help="YAML: which numbers become which classes")
    add_rules(parser, max_seconds=False)
    parser.add_argument("--overwrite", action="store_true", help="replace metadata that is there already")
    parser.add_argument("--workers", type=positive, default=1, help="processes that measure (default %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Annotate every record; an interrupted run resumes after the last record that it measured."""
    scales = _check(args)
    measuring = {
        "manifest_sha256": manifest_hash(args.manifest),
        "annotators": args.annotators,
        "overwrite": args.overwrite,
        **({"allow": sorted(set(args.allow))} if args.allow else {}),
    }
    settings = measuring | {"classes": {key: scale.model_dump() for key, scale in scales.items()}}
    stamp = args.out.with_suffix(".settings.json")
    if args.out.exists() and stamp.exists():
        same_settings(read_json(stamp, f"remove it and {args.out} to annotate anew"), settings, args.out)
        print(f"{args.out}: finished before, left alone")
        return 0
    with step_journal(args.out, measuring) as journal:
        measure_all(args, journal)
        told = finish(args, journal, scales)
        write_json(stamp, settings)
        journal.remove()
    print(told)
    return 0


def measure(record: dict, names: Sequence[str], overwrite: bool = False, rules: Rules = ANY_LENGTH) -> Measured:
    """What the annotators `names` find in a record whose audio the rules find usable.

    One of whose keys the record has any is not run, unless `overwrite`: an emotion of the corpus and a score of another
    one do not mix.
    """
    metadata = record.get("metadata") or {}
    lacking = [name for name in names if all(metadata.get(key) is None for key in annotators.get(name).KEYS)]
    wanted = names if overwrite else lacking
    values: dict[str, float | str] = {}
    missing: dict[str, str] = {}
    if not wanted:
        return Measured(record["id"], values, missing)
    try:
        if (count := len(record["audios"])) != 1:
            raise AudioError(f"the record has {count} audios, and metadata that speaks of all of them")
        samples = usable_waveform(record["audios"][0], rules)
    except AudioError as error:
        return Measured(record["id"], values, dict.fromkeys(wanted, str(error)))
    for name in wanted:
        try:
            values |= annotators.measure_of(name)(samples)
        except AudioError as error:
            missing[name] = str(error)
    return Measured(record["id"], values, missing)


def measure_all(args: argparse.Namespace, journal: Journal) -> None:
    """Measure the records that the journal does not have yet, in the manifest's order."""
    one = partial(measure, names=args.annotators, overwrite=args.overwrite, rules=Rules.of(args))
    rest = islice(_records(args.manifest), journal.count, None)
    with progress("annotate", count_lines(args.manifest)) as advance:
        advance(journal.count)
        for measured in ordered(one, rest, args.workers):
            journal.append(vars(measured))
            advance(1)


def finish(args: argparse.Namespace, journal: Journal, scales: dict[str, Scale]) -> str:
    """Write the manifest and the lists of what was rejected and of what is missing; returns what there is to tell."""
    with waiting(f"classes of {args.out}"):
        scales = settle(scales, _annotated(_records(args.manifest), journal, args.overwrite))
    labels: dict[str, Counter] = {key: Counter() for key in scales}
    with Rejects(args.out) as rejects, waiting(f"writing {args.out}"):
        records = _annotated(rejects.sift(read_manifest(args.manifest)), journal, args.overwrite)
        count = write_manifest(args.out, (_classed(record, scales, labels, args.overwrite) for record in records))
        missing = _list_missing(missing_path(args.out), journal)
    if not count:
        raise UserError(f"{args.manifest}: it holds no usable record{rejects.why}")
    told = [f"{args.out}: {count} records{rejects.summary}"]
    told += [f"  {key}: {scale.told(labels[key])}" for key, scale in scales.items()]
    if missing:
        listed = ", ".join(f"{name} in {times}" for name, times in sorted(missing.items()))
        told.append(f"  not measured: {listed}; see {missing_path(args.out)}")
    return "\n".join(told)


def missing_path(out: Path) -> Path:
    """Where the measures that could not be taken are listed: beside `manifest.jsonl` in `manifest.missing.jsonl`."""
    return out.with_name(f"{out.stem}.missing.jsonl")


def _check(args: argparse.Namespace) -> dict[str, Scale]:
    """The classes that are asked for; UserError for what would otherwise fail only when all is measured."""
    check_output(args.out, args.manifest)
    if not args.annotators and not args.classes:
        raise UserError("nothing to do: give --annotators, --classes, or both")
    if double := [name for name, times in Counter(args.annotators).items() if times > 1]:
        raise UserError(f"--annotators: {double[0]} is named twice")
    annotators.check_installed(args.annotators)
    scales = read_scales(args.classes) if args.classes else {}
    given = {key for name in args.annotators for key in annotators.get(name).KEYS}
    wanted = {scale.of: key for key, scale in scales.items() if scale.of not in given}
    if wanted:
        with waiting(f"reading {args.manifest}"):
            for record in _records(args.manifest):
                for number in wanted.keys() & (record.get("metadata") or {}).keys():
                    del wanted[number]
    for number, key in wanted.items():
        raise UserError(
            f"{args.classes}: {key} is made of {number!r}, which neither {args.manifest} nor an annotator gives; "
            "add the annotator, or leave the class out"
        )
    return scales


def _records(manifest: Path) -> Iterator[dict]:
    return (record for record in read_manifest(manifest) if not isinstance(record, Rejected))


def _annotated(records: Iterable[dict], journal: Journal, overwrite: bool) -> Iterator[dict]:
    """The records with what was measured in them."""
    rows = iter(journal)
    for record in records:
        row = next(rows, {})
        if row.get("id") != record["id"]:
            raise UserError(f"{journal.path}: {row.get('id')!r} comes where {record['id']!r} should; remove this file")
        yield _with(record, row["values"], overwrite)


def _classed(record: dict, scales: dict[str, Scale], labels: dict[str, Counter], overwrite: bool) -> dict:
    """The record with the classes of its numbers, which are counted in `labels`."""
    found = {key: scale.label(record["metadata"].get(scale.of)) for key, scale in scales.items()}
    record = _with(record, {key: label for key, label in found.items() if label}, overwrite)
    for key, counter in labels.items():
        counter[as_text(record["metadata"].get(key))] += 1
    return record


def _with(record: dict, values: dict, overwrite: bool) -> dict:
    """The record with values in its metadata; those that are there already stay, unless `overwrite`."""
    metadata = record.get("metadata") or {}
    new = {key: value for key, value in values.items() if overwrite or metadata.get(key) is None}
    return {**record, "metadata": metadata | new}


def _list_missing(path: Path, journal: Journal) -> Counter[str]:
    """List `{id, annotator, reason}` of what was not measured; the number by annotator, and no file where it is 0."""
    counts = Counter(name for row in journal for name in row["missing"])
    if counts:
        listed = ((row["id"], name, reason) for row in journal for name, reason in row["missing"].items())
        write_jsonl(path, ({"id": identity, "annotator": name, "reason": reason} for identity, name, reason in listed))
    else:
        path.unlink(missing_ok=True)
    return counts
