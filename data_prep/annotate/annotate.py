"""`prep annotate`: measure attributes of the audio that a corpus has no labels for, and store them as metadata."""

import argparse
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from caad_ds.data.audio.decode import AudioError
from caad_ds.data.audio.usable_audio import Rules, add_rules
from caad_ds.data.record import Record
from caad_ds.utils.command import positive
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import read_json, write_json, write_jsonl
from caad_ds.utils.formatting import counted
from caad_ds.utils.journal import Journal, same_settings
from caad_ds.utils.progress import progress, waiting
from caad_ds.utils.text import as_text
from data_prep.annotate import annotators
from data_prep.annotate.classes import Scale, read_scales, settle
from data_prep.common.audio_entry import usable_waveform
from data_prep.common.jsonl import Rejected, count_lines
from data_prep.common.manifest import check_output, manifest_hash, read_manifest, write_manifest
from data_prep.common.parallel import ordered
from data_prep.common.rejects import Rejects
from data_prep.common.step_journal import settings_path, step_journal

ANY_LENGTH = Rules()


@dataclass(frozen=True)
class Measured:
    """Metadata measured in one record, and the reason per annotator that measured nothing."""

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
    parser.add_argument("--overwrite", action="store_true", help="replace existing metadata")
    parser.add_argument("--workers", type=positive, default=1, help="measuring processes (default %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Annotate the manifest and print a summary."""
    rules = Rules.of(allow=args.allow)
    summary = annotate(args.manifest, args.out, args.annotators, args.classes, rules, args.overwrite, args.workers)
    print(summary or f"{args.out}: already finished, nothing to do")
    return 0


def annotate(
    manifest: Path,
    out: Path,
    names: Sequence[str] = (),
    classes: Path | None = None,
    rules: Rules = ANY_LENGTH,
    overwrite: bool = False,
    workers: int = 1,
) -> str | None:
    """Annotate every record by the annotators `names` and the classes of a YAML file; an interrupted run resumes after
    the last record that it measured.

    Returns a summary, None if the output was finished before. Raises UserError, before anything is measured, for what
    cannot be measured or classed, and for an output made with other settings.
    """
    scales = _check(manifest, out, names, classes)
    measuring = {
        "manifest_sha256": manifest_hash(manifest),
        "annotators": list(names),
        "overwrite": overwrite,
        **({"annotator_versions": versions} if (versions := annotators.versions(names)) else {}),
        **({"allow": list(rules.allow)} if rules.allow else {}),
    }
    settings = measuring | {"classes": {key: scale.model_dump() for key, scale in scales.items()}}
    stamp = settings_path(out)
    if out.exists() and stamp.exists():
        same_settings(read_json(stamp, f"remove it and {out} to annotate again"), settings, out)
        return None
    with step_journal(out, measuring) as journal:
        measure_all(manifest, partial(measure, names=names, overwrite=overwrite, rules=rules), journal, workers)
        summary = finish(manifest, out, journal, scales, overwrite)
        write_json(stamp, settings)
        journal.remove()
    return summary


def measure(record: Record, names: Sequence[str], overwrite: bool = False, rules: Rules = ANY_LENGTH) -> Measured:
    """Run the annotators `names` on a record; its audio must pass the rules.

    Unless `overwrite`, an annotator is skipped if the record has any of its keys: the corpus's emotion must not be
    combined with the score of another one.
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


def measure_all(manifest: Path, measure_one: Callable[[Record], Measured], journal: Journal, workers: int) -> None:
    """Measure the records that are not in the journal yet, in the manifest's order."""
    rest = islice(_records(manifest), journal.count, None)
    with progress("annotate", count_lines(manifest)) as advance:
        advance(journal.count)
        for measured in ordered(measure_one, rest, workers):
            journal.append(vars(measured))
            advance(1)


def finish(manifest: Path, out: Path, journal: Journal, scales: dict[str, Scale], overwrite: bool) -> str:
    """Write the manifest and the lists of rejected records and missing measures; returns a summary."""
    with waiting(f"classes of {out}"):
        scales = settle(scales, _annotated(_records(manifest), journal, overwrite))
    labels: dict[str, Counter] = {key: Counter() for key in scales}
    with Rejects(out) as rejects, waiting(f"writing {out}"):
        records = _annotated(rejects.sift(read_manifest(manifest)), journal, overwrite)
        count = write_manifest(out, (_classed(record, scales, labels, overwrite) for record in records))
        missing = _list_missing(missing_path(out), journal)
    if not count:
        raise UserError(f"{manifest}: it holds no usable record{rejects.why}")
    lines = [f"{out}: {counted(count, 'record')}{rejects.summary}"]
    lines += [f"  {key}: {scale.summary(labels[key])}" for key, scale in scales.items()]
    if missing:
        listed = ", ".join(f"{name} in {times}" for name, times in sorted(missing.items()))
        lines.append(f"  not measured: {listed}; see {missing_path(out)}")
    return "\n".join(lines)


def missing_path(out: Path) -> Path:
    """Path of the list of missing measures: `manifest.missing.jsonl` beside `manifest.jsonl`."""
    return out.with_name(f"{out.stem}.missing.jsonl")


def _check(manifest: Path, out: Path, names: Sequence[str], classes: Path | None) -> dict[str, Scale]:
    """Load the classes; raises UserError early for what would otherwise fail only after all is measured."""
    check_output(out, manifest)
    if not names and not classes:
        raise UserError("nothing to do: give --annotators, --classes, or both")
    if double := [name for name, times in Counter(names).items() if times > 1]:
        raise UserError(f"--annotators: {double[0]} is named twice")
    annotators.check_installed(names)
    scales = read_scales(classes) if classes else {}
    given = {key for name in names for key in annotators.get(name).KEYS}
    wanted = {scale.of: key for key, scale in scales.items() if scale.of not in given}
    if wanted:
        with waiting(f"reading {manifest}"):
            for record in _records(manifest):
                for number in wanted.keys() & (record.get("metadata") or {}).keys():
                    del wanted[number]
    for number, key in wanted.items():
        raise UserError(
            f"{classes}: {key} is made of {number!r}, which neither {manifest} nor an annotator gives; "
            "add the annotator, or leave the class out"
        )
    return scales


def _records(manifest: Path) -> Iterator[Record]:
    return (record for record in read_manifest(manifest) if not isinstance(record, Rejected))


def _annotated(records: Iterable[Record], journal: Journal, overwrite: bool) -> Iterator[Record]:
    """Yield the records with their measured metadata."""
    rows = iter(journal)
    for record in records:
        row = next(rows, {})
        if row.get("id") != record["id"]:
            raise UserError(f"{journal.path}: {row.get('id')!r} comes where {record['id']!r} should; remove this file")
        yield _with(record, row["values"], overwrite)


def _classed(record: Record, scales: dict[str, Scale], labels: dict[str, Counter], overwrite: bool) -> Record:
    """Return the record with the classes of its numbers; count these in `labels`."""
    metadata = record.get("metadata") or {}
    found = {key: scale.label(metadata.get(scale.of)) for key, scale in scales.items()}
    classed = _with(record, {key: label for key, label in found.items() if label}, overwrite)
    for key, counter in labels.items():
        counter[as_text((classed["metadata"] or {}).get(key))] += 1
    return classed


def _with(record: Record, values: dict, overwrite: bool) -> Record:
    """Return the record with values added to its metadata; existing ones stay unless `overwrite`."""
    metadata = record.get("metadata") or {}
    new = {key: value for key, value in values.items() if overwrite or metadata.get(key) is None}
    return {**record, "metadata": metadata | new}


def _list_missing(path: Path, journal: Journal) -> Counter[str]:
    """List `{id, annotator, reason}` per missing measure, no file if there is none; returns the number by annotator."""
    counts = Counter(name for row in journal for name in row["missing"])
    if counts:
        listed = ((row["id"], name, reason) for row in journal for name, reason in row["missing"].items())
        write_jsonl(path, ({"id": identity, "annotator": name, "reason": reason} for identity, name, reason in listed))
    else:
        path.unlink(missing_ok=True)
    return counts
