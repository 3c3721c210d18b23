"""`prep pack`: pack an answered manifest into WebDataset shards with an index of byte offsets.

Shards are plain tars of `<key>.json` and `<key>.flac` (16 kHz mono, 16 bit) with fixed times and owners: equal input
and library versions give equal bytes. Any WebDataset reader can read them. `index.json` is written last.

A shard depends only on the records since the previous one. So a killed run resumes after its last complete shard,
which the journal `index.partial.jsonl` names, and gives the same bytes as an uninterrupted run.
"""

import argparse
import re
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from caad_ds.data.audio.usable_audio import DEFAULT, Rules, add_rules
from caad_ds.data.record import Record
from caad_ds.data.shard_index import FILE_NAME, VERSION, IndexFile, Shard, ShardIndex
from caad_ds.utils.array_task import Part
from caad_ds.utils.command import positive
from caad_ds.utils.errors import UserError
from caad_ds.utils.formatting import counted
from caad_ds.utils.journal import Journal
from caad_ds.utils.progress import waiting
from data_prep.common.jsonl import Rejected
from data_prep.common.manifest import manifest_hash, read_manifest
from data_prep.common.parallel import ordered
from data_prep.common.rejects import Rejects, rejected_path
from data_prep.common.step_journal import journal_path, step_journal
from data_prep.pack.shards import ShardWriter, encode, index_path

SHARD_BYTES = 256 << 20
PART_NAME = re.compile(r"train-\d{5}-\d{6}\.tar")


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `prep pack`."""
    parser.add_argument("--manifest", type=Path, required=True, help="answered manifest (JSONL)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards")
    parser.add_argument(
        "--shard-bytes",
        type=positive,
        default=SHARD_BYTES,
        help="start a new shard at this size, in bytes (default %(default)s)",
    )
    add_rules(parser)
    parser.add_argument("--workers", type=positive, default=1, help="encoding processes (default %(default)s)")
    parser.add_argument(
        "--shard", type=Part.parse, metavar="I/N", help="pack part I of N alone; `prep join-shards` joins the parts"
    )


def run(args: argparse.Namespace) -> int:
    """Pack, and print what was packed, skipped and rejected."""
    rules = Rules.of(args.max_seconds, args.allow)
    index, fresh = pack(args.manifest, args.out, args.shard_bytes, args.workers, args.shard, rules)
    joined = not fresh and (args.out / FILE_NAME).exists()
    print(summary(index, args.out, None if joined else args.shard) + ("" if fresh else ", already packed"))
    return 0


def summary(index: ShardIndex, folder: Path, part: Part | None = None) -> str:
    """Return one line with the totals of an index and the path of the list of rejected records."""
    shards, rejected = index.file.shards, index.file.rejected
    hours = sum(shard.seconds for shard in shards) / 3600
    listed = f"; {rejected} rejected, see {rejected_path(index_path(folder, part))}" if rejected else ""
    return f"{folder}: {counted(len(index), 'sample')}, {hours:.2f} h in {counted(len(shards), 'shard')}{listed}"


def pack(
    manifest: Path,
    folder: Path,
    shard_bytes: int = SHARD_BYTES,
    workers: int = 1,
    part: Part | None = None,
    rules: Rules = DEFAULT,
) -> tuple[ShardIndex, bool]:
    """Write the shards of a manifest, or of a part of it; returns their index and whether anything was written.

    A folder that already holds this manifest with this shard size is left alone. Raises UserError for a folder with
    other shards, a manifest without a usable record, and a full disk; complete shards stay.
    """
    with waiting(f"reading {manifest}"):
        made_of: dict[str, Any] = {
            "manifest": manifest_hash(manifest),
            "shard_bytes": shard_bytes,
            "rules": rules.content(),
        }
    out, prefix = index_path(folder, part), "train" if part is None else f"train-{part.index:05d}"
    if (packed := _packed(folder, out, made_of)) is not None:
        clean(out, prefix)
        return packed, False
    if not journal_path(out).exists() and (found := _foreign_shards(folder, part, prefix)):
        raise UserError(f"{folder} holds shards without {out.name} ({found[0]}): delete them, or name another --out")
    with step_journal(out, made_of) as journal:
        records = read_manifest(manifest, f"packing {manifest}")
        _append(part.take(records) if part else records, journal, folder, shard_bytes, prefix, workers, rules)
        with Rejects(out) as rejects, waiting(f"writing {out}"):
            shards = list(rejects.sift(_outcomes(journal)))
        if shards or part:
            content = IndexFile(VERSION, **made_of, rejected=rejects.count, shards=shards)
            with waiting(f"writing {out}"):
                content.write(out)
        clean(out, prefix)
    rejects.report()
    if not shards and not part:
        raise UserError(f"{manifest}: no record is usable{rejects.why}")
    return ShardIndex.load(folder, name=out.name), True


def clean(out: Path, prefix: str) -> None:
    """Remove files that were needed until the index `out` was written, and leftovers of killed runs."""
    journal_path(out).unlink(missing_ok=True)
    for pattern in (f".{prefix}-*.partial", f".{out.stem}.*.partial"):
        for stale in out.parent.glob(pattern):
            stale.unlink()


def _packed(folder: Path, out: Path, made_of: dict) -> ShardIndex | None:
    """Load the existing index of the folder: of the whole, or of this part."""
    for name in dict.fromkeys((FILE_NAME, out.name)):
        if (folder / name).exists():
            index = ShardIndex.load(folder, name=name)
            # An earlier release did not write the rules.
            if all(getattr(index.file, key) in (value, {}) for key, value in made_of.items()):
                return index
            raise UserError(
                f"{folder} holds shards of another manifest, --shard-bytes, --max-seconds or --allow: name another "
                "--out, or delete it"
            )
    return None


def _foreign_shards(folder: Path, part: Part | None, prefix: str) -> list[str]:
    """List shards in the folder that were not written by other parts of the manifest."""
    names = sorted(path.name for path in folder.glob("train-*.tar"))
    return [name for name in names if part is None or name.startswith(prefix) or not PART_NAME.fullmatch(name)]


def _append(
    records: Iterator[Record | Rejected],
    journal: Journal,
    folder: Path,
    shard_bytes: int,
    prefix: str,
    workers: int,
    rules: Rules,
) -> None:
    """Encode the records that are not in the journal yet; append complete shards and rejected records to it."""
    done, first = _resume(journal, folder)
    at = done  # records settled, including the current one
    with ShardWriter(folder, shard_bytes, prefix, first) as writer:
        for result in ordered(partial(encode, rules=rules), islice(records, done, None), workers):
            if isinstance(result, Rejected):
                journal.append({"id": result.id, "reason": result.reason})
            elif shard := writer.add(result):
                journal.append({"records": at, "shard": shard.content()})
            at += 1
        if shard := writer.finish():
            journal.append({"records": at, "shard": shard.content()})


def _resume(journal: Journal, folder: Path) -> tuple[int, int]:
    """Return (records, shards) settled by an earlier run; drop its journal after the last complete shard."""
    records, shards, kept = 0, 0, 0
    for number, row in enumerate(journal, 1):
        if "shard" in row:
            path = folder / row["shard"]["name"]
            if not path.is_file() or path.stat().st_size != row["shard"]["bytes"]:
                break
            records, shards, kept = row["records"], shards + 1, number
    journal.rewind(kept)
    return records, shards


def _outcomes(journal: Journal) -> Iterator[Shard | Rejected]:
    shard = TypeAdapter(Shard)
    for row in journal:
        yield shard.validate_python(row["shard"]) if "shard" in row else Rejected(row["id"], row["reason"])
