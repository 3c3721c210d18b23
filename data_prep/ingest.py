"""`prep ingest`: a corpus becomes a manifest, every audio of it opened once."""

import argparse
from collections import Counter
from pathlib import Path

from caad_ds.data.audio import SAMPLE_RATE, AudioError, load
from caad_ds.errors import UserError
from caad_ds.progress import track, waiting
from data_prep import sources
from data_prep.manifest import Rejected, rejected_path, write_manifest, write_rejected

MAX_SECONDS = 30.0


def register(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("source", metavar="SOURCE", help=f"one of {', '.join(sources.names())}")
    parser.add_argument("--root", type=Path, required=True, help="the corpus: the folder or file that the source reads")
    parser.add_argument("--out", type=Path, required=True, help="the manifest to write")
    parser.add_argument(
        "--max-seconds", type=float, default=MAX_SECONDS, help="reject longer audio (default %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Write the manifest and, beside it, the list of rejected records; print how many of each."""
    kept, rejected = ingest(args.source, args.root, args.max_seconds)
    write_rejected(args.out, rejected)
    if not kept:
        first = f", the first: {rejected[0]['reason']}" if rejected else ""
        raise UserError(f"{args.root}: source {args.source} gave {len(rejected)} records and none is usable{first}")
    write_manifest(args.out, kept)
    hours = sum(audio["duration"] for record in kept for audio in record["audios"]) / 3600
    print(f"{args.out}: {len(kept)} records, {hours:.2f} hours{summary(args.out, rejected)}")
    return 0


def ingest(source: str, root: Path, max_seconds: float = MAX_SECONDS) -> tuple[list[dict], list[dict]]:
    """The records of a source with the durations (seconds) of their audios, and those rejected as `{id, reason}`.

    Rejected are records with an audio that does not decode or lasts longer than `max_seconds`: cutting it would leave
    a transcription and answers that speak of more than the audio holds.
    """
    if not root.exists():
        raise UserError(f"{root}: there is no such folder or file; check --root")
    with waiting(f"reading {root}"):
        found = list(sources.get(source)(root))
    records = [record for record in found if isinstance(record, dict)]
    doubles = [identity for identity, times in Counter(record["id"] for record in records).items() if times > 1]
    if doubles:
        raise UserError(f"{root}: id {doubles[0]!r} comes twice ({len(doubles)} such ids); ids must be unique")
    kept, rejected = [], [vars(record) for record in found if isinstance(record, Rejected)]
    for record in track(records, f"ingest {source}", len(records)):
        try:
            kept.append({**record, "audios": [_probe(audio, max_seconds) for audio in record["audios"]]})
        except AudioError as error:
            rejected.append({"id": record["id"], "reason": str(error)})
    return kept, rejected


def summary(out: Path, rejected: list[dict]) -> str:
    """What to add to a step's last line about the records that it rejected."""
    return f"; {len(rejected)} rejected, see {rejected_path(out)}" if rejected else ""


def _probe(audio: dict, max_seconds: float) -> dict:
    path = Path(audio["path"])
    try:
        seconds = len(load(path)) / SAMPLE_RATE
    except AudioError as error:
        raise AudioError(f"{path} does not decode: {error}") from error
    if seconds > max_seconds:
        raise AudioError(f"{path} lasts {seconds:.2f} s, more than {max_seconds:g} s")
    return {**audio, "duration": round(seconds, 4)}
