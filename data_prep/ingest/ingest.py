"""`prep ingest`: convert a corpus to a manifest; every audio is decoded once."""

import argparse
import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

from caad_ds.data.audio import usable_audio
from caad_ds.data.audio.decode import PART_SECONDS, AudioError, examine
from caad_ds.data.audio.usable_audio import MAX_SECONDS, SAMPLE_RATE, add_rules, longer
from caad_ds.data.record import Audio, Record, RecordFault, as_record
from caad_ds.utils.command import positive
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import read_json, to_line, write_json
from caad_ds.utils.formatting import counted
from caad_ds.utils.journal import Journal
from caad_ds.utils.progress import track, waiting
from data_prep.common.audio_entry import is_part, seconds_of
from data_prep.common.jsonl import Rejected
from data_prep.common.manifest import check_output, write_manifest
from data_prep.common.parallel import ordered
from data_prep.common.rejects import Rejects
from data_prep.common.step_journal import settings_path, step_journal
from data_prep.ingest import sources
from data_prep.ingest.long_audio_policies import POLICIES
from data_prep.ingest.longest_audio import window_seconds
from data_prep.ingest.table import Reading

R = TypeVar("R", bound=Mapping[str, Any])


@dataclass(frozen=True)
class Rules:
    """Which audio is taken.

    Args:
        root: folder of the audio; links out of it are followed only if `follow_links`.
        too_long: policy for audio longer than `max_seconds` (`long_audio_policies.POLICIES`).
        allow: rules of usable_audio.py that audio may break.
    """

    root: Path
    max_seconds: float = MAX_SECONDS
    too_long: str = "reject"
    follow_links: bool = False
    allow: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settled:
    """Outcome for one record of a source, identified by its `hash`: the records `kept`, or the `reason` for none."""

    id: str
    hash: str
    kept: list[Record] = field(default_factory=list)
    reason: str = ""
    cut: bool = False


@dataclass(frozen=True)
class Ingested:
    """Totals of a manifest: records, `seconds` of audio, records that were too long and `cut`, records `without_text`;
    and the rejected records."""

    count: int
    seconds: float
    cut: int
    without_text: int
    rejects: Rejects


def register(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    known = ", ".join(sources.names())
    parser.add_argument("source", metavar="SOURCE", help=f"one of {known}, or package.module of your own")
    parser.add_argument("--root", type=Path, required=True, help="the corpus: the folder or file that the source reads")
    parser.add_argument("--out", type=Path, required=True, help="the manifest to write")
    table = parser.add_argument_group("tables (csv, audiofolder, parquet, nemo, jsonl)")
    table.add_argument(
        "--map", nargs="+", action="extend", default=[], metavar="NAME=COLUMN",
        help="rename columns, such as text=sentence speaker=client_id; audio, text, id, offset and duration have a "
        "meaning, every other name is metadata",
    )  # fmt: skip
    table.add_argument(
        "--audio-root", type=Path, metavar="DIR", help="folder that relative paths start from (default: the table's)"
    )
    parser.add_argument(
        "--for", type=Path, dest="model", metavar="CONFIG_OR_MODEL",
        help="a run's YAML or folder, or a model folder: its encoder's window is the limit in place of --max-seconds",
    )  # fmt: skip
    add_rules(parser)
    parser.add_argument(
        "--too-long", choices=POLICIES, default="reject", help="what to do with longer audio (default %(default)s)"
    )
    parser.add_argument("--follow-links", action="store_true", help="follow symbolic links out of the root")
    parser.add_argument("--workers", type=positive, default=1, help="decoding processes (default %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Ingest the corpus; print the number of records, of rejected and of cut ones."""
    limit = _limit(args.model, args.max_seconds)
    result = ingest(
        args.source, args.root, args.out, max_seconds=limit, too_long=args.too_long, follow_links=args.follow_links,
        allow=args.allow, columns=_columns(args.map), audio_root=args.audio_root, workers=args.workers,
    )  # fmt: skip
    if result is None:
        print(
            f"{args.out}: already finished, nothing to do; its audio is not opened again, remove "
            f"{settings_path(args.out)} for that"
        )
        return 0
    if args.model:
        print(f"{args.model}: its window of {limit:g} s is the limit")
    result.rejects.report()
    cut = f", {result.cut} too long and cut ({args.too_long})" if result.cut else ""
    without_text = f", {result.without_text} without text" if result.without_text else ""
    length = f"{result.seconds / 3600:.2f} hours"
    print(f"{args.out}: {counted(result.count, 'record')}, {length}{without_text}{cut}{result.rejects.summary}")
    return 0


def ingest(
    source: str,
    root: Path,
    out: Path,
    *,
    max_seconds: float = MAX_SECONDS,
    too_long: str = "reject",
    follow_links: bool = False,
    allow: Iterable[str] = (),
    columns: Mapping[str, str] | None = None,
    audio_root: Path | None = None,
    workers: int = 1,
) -> Ingested | None:
    """Write the manifest of the corpus `root` and the list of rejected records; an interrupted run resumes.

    `columns` and `audio_root` are those of `Reading`, the other options those of `Rules`. Returns the manifest's
    totals, None if it was finished before. UserError for an unknown source, a missing corpus, or one without a usable
    record.
    """
    check_output(out, root)
    allowed = usable_audio.Rules.of(max_seconds, allow).allow
    rules = Rules(audio_root or root, max_seconds, too_long, follow_links, allowed)
    reading = Reading(columns or {}, audio_root, out.with_suffix(".audio"))
    settings: dict[str, Any] = {"source": source}
    settings |= {name: str(value) for name, value in vars(rules).items() if value != ()}
    settings |= {"map": reading.columns} if reading.columns else {}
    settings |= {"root": str(root), "audio_root": str(audio_root)} if audio_root else {}
    stamp = settings_path(out)
    if out.exists() and stamp.exists():
        written = read_json(stamp, "remove it to ingest again")
        if written == settings | {"records_sha256": _hash_source(source, root, reading)}:
            return None
    labels = hashlib.sha256()
    records = _hashed(unique(sources.read(source, root, reading)), labels)
    with step_journal(out, settings) as journal:
        with waiting(f"{root}: skipping what was settled before"):
            pending = chain(islice(left := _without(records, journal), 1), left)
        for settled in track(settle(pending, rules, workers), f"ingest {source}"):
            journal.append(vars(settled))
        totals: dict[str, float] = defaultdict(int)
        with Rejects(out) as rejects, waiting(f"writing {out}"):
            count = write_manifest(out, rejects.sift(unique(_outcomes(journal, totals))))
        if count:
            write_json(stamp, settings | {"records_sha256": labels.hexdigest()})
        journal.remove()
    if not count:
        raise UserError(f"{root}: source {source} gave no usable record{rejects.why}")
    return Ingested(count, totals["seconds"], int(totals["cut"]), int(totals["without_text"]), rejects)


def unique(records: Iterable[R | Rejected]) -> Iterator[R | Rejected]:
    """Yield the records, with a `Rejected` in place of each that repeats an id."""
    seen: set[str] = set()
    for record in records:
        if isinstance(record, Rejected):
            yield record
        elif record["id"] in seen:
            yield Rejected(record["id"], "an earlier record has this id as well; ids must be unique")
        else:
            seen.add(record["id"])
            yield record


def settle(records: Iterable[dict | Rejected], rules: Rules, workers: int = 1) -> Iterator[Settled]:
    """Yield the outcome for each record, in order."""
    return ordered(partial(_settle, rules=rules), records, workers)


def _hash(record: Mapping[str, Any] | Rejected) -> str:
    """Return the hash by which a resumed run recognises a record of the source."""
    value: Mapping[str, Any] = {"id": record.id, "reason": record.reason} if isinstance(record, Rejected) else record
    return hashlib.sha256(to_line(value)).hexdigest()[:32]


def _hashed(records: Iterable[dict | Rejected], digest: Any) -> Iterator[dict | Rejected]:
    """Yield the records; add each to `digest`."""
    for record in records:
        digest.update(_hash(record).encode())
        yield record


def _limit(model: Path | None, max_seconds: float) -> float:
    """Return the longest allowed audio in seconds, from --for or --max-seconds; UserError if both are given."""
    if model is None:
        return max_seconds
    if max_seconds != MAX_SECONDS:
        raise UserError("--for and --max-seconds both say how long an audio may be; remove one of them")
    return float(window_seconds(model))


def _columns(pairs: list[str]) -> dict[str, str]:
    """Parse `--map NAME=COLUMN ...`; UserError for a wrong form and for a repeated name."""
    parted = [pair.partition("=") for pair in pairs]
    for name, _, column in parted:
        if not name or not column:
            raise UserError(f"--map {name}{column}: write it as NAME=COLUMN, such as text=sentence")
    columns = {name: column for name, _, column in parted}
    if len(columns) < len(parted):
        raise UserError(f"--map {' '.join(pairs)}: each name can stand for one column")
    return columns


def _hash_source(source: str, root: Path, reading: Reading) -> str:
    """Return the digest of the source's present records; no audio is opened."""
    digest = hashlib.sha256()
    for _ in track(_hashed(unique(sources.read(source, root, reading)), digest), f"comparing {root}"):
        pass
    return digest.hexdigest()


def _without(records: Iterator[dict | Rejected], journal: Journal) -> Iterator[dict | Rejected]:
    """Skip the records that are in the journal; UserError if the source's first records are not these any more."""
    for settled in journal:
        record = next(records, None)
        if record is None or _hash(record) != settled["hash"]:
            raise UserError(
                f"{journal.path}: the corpus has changed since {settled['id']!r} was ingested; remove this file to "
                "ingest again"
            )
    yield from records


def _outcomes(journal: Journal, totals: dict[str, float]) -> Iterator[Record | Rejected]:
    """Yield the journal's kept and rejected records; add up their `seconds`, `cut` and `without_text` in `totals`."""
    for settled in journal:
        if settled["reason"]:
            yield Rejected(settled["id"], settled["reason"])
        totals["cut"] += settled["cut"]
        for record in settled["kept"]:
            totals["without_text"] += not all(audio.get("text") for audio in record["audios"])
            totals["seconds"] += sum(seconds_of(audio) for audio in record["audios"])
            yield record


def _settle(row: dict | Rejected, rules: Rules) -> Settled:
    if isinstance(row, Rejected):
        return Settled(row.id, _hash(row), reason=row.reason)
    try:
        record = as_record(row)
    except RecordFault as wrong:
        return Settled(row["id"], _hash(row), reason=str(wrong))
    try:
        timed, levels_of = zip(*(_examined(audio, rules) for audio in record["audios"]), strict=True)
    except (AudioError, OSError) as error:  # such as a name that is too long for the file system
        return Settled(record["id"], _hash(record), reason=str(error))
    probed: Record = {**record, "audios": list(timed)}
    too_long = any(longer(seconds_of(audio), rules.max_seconds) for audio in timed)
    judged = usable_audio.Rules(allow=rules.allow)
    faults = (f"{fault} ({a['path']})" for a, f in zip(timed, levels_of, strict=True) if (fault := judged.fault(f)))
    if not (too_long and rules.too_long == "reject") and (fault := next(faults, None)):
        return Settled(record["id"], _hash(record), reason=fault)
    if not too_long:
        return Settled(record["id"], _hash(record), [probed])
    parts = POLICIES[rules.too_long](probed, rules.max_seconds)
    if isinstance(parts, Rejected):
        return Settled(record["id"], _hash(record), reason=parts.reason)
    return Settled(record["id"], _hash(record), parts, cut=True)


def _examined(audio: Audio, rules: Rules) -> tuple[Audio, usable_audio.Levels]:
    """Return an audio entry with its duration, and its levels; of a part, the part's.

    A `duration` without an `offset` is the source's statement about the file; of a longer file only so much is used.
    """
    path, said = Path(audio["path"]), audio.get("duration")
    if not rules.follow_links and _leads_out(path, rules.root if rules.root.is_dir() else rules.root.parent):
        raise AudioError(f"{path} is a link that leads out of the root; --follow-links takes it")
    try:
        measured = examine(path, *((audio["offset"], said) if is_part(audio) else ()))
        if said is not None and not is_part(audio):
            if measured.seconds < said - PART_SECONDS:
                raise AudioError(f"only {measured.seconds:.2f} of {said:.2f} s are there")
            if measured.seconds > said + PART_SECONDS:
                audio, measured = {**audio, "offset": 0.0}, examine(path, 0.0, said)
    except AudioError as error:
        raise AudioError(f"{path} does not decode: {error}") from error
    # A part keeps its stated length (within 2 samples at 16 kHz): later steps cut it again at the file's own rate.
    kept = is_part(audio) and said is not None and abs(measured.seconds - said) < 2 / SAMPLE_RATE
    return {**audio, "duration": said if kept else round(measured.seconds, 7)}, measured


def _leads_out(path: Path, root: Path) -> bool:
    """Return whether a path below the root leads out of it through a symbolic link."""
    named, named_root = Path(os.path.abspath(path)), Path(os.path.abspath(root))
    # realpath, as Path.resolve raises at a link that leads to itself
    return named.is_relative_to(named_root) and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))
