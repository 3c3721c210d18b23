"""`prep pack`: an answered manifest becomes WebDataset shards with an index of byte offsets.

Shards are plain tars of `<key>.json` and `<key>.flac` (16 kHz mono, 16 bit) with fixed times and owners, so equal
input gives equal bytes on equal library versions; any WebDataset reader takes them. `index.json` comes last.
"""

import argparse
import hashlib
from pathlib import Path

from caad_ds.data.index import FILE_NAME, VERSION, IndexFile, ShardIndex
from caad_ds.errors import UserError
from caad_ds.files import disk_errors, write_atomic
from caad_ds.progress import track
from data_prep.jsonl import Rejected, write_jsonl
from data_prep.manifest import load_manifest
from data_prep.parallel import ordered
from data_prep.shards import ShardWriter, encode

SHARD_BYTES = 256 << 20
REJECTED_NAME = "rejected.jsonl"


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `prep pack`."""
    parser.add_argument("--manifest", type=Path, required=True, help="answered manifest (JSONL)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards")
    parser.add_argument("--shard-bytes", type=int, default=SHARD_BYTES, help="cut shards at this size (%(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="processes that encode ahead (%(default)s)")


def run(args: argparse.Namespace) -> int:
    """Pack, and print what was packed, skipped and rejected."""
    index, fresh = pack(args.manifest, args.out, args.shard_bytes, args.workers)
    shards = index.file.shards
    hours = sum(shard.seconds for shard in shards) / 3600
    print(
        f"{args.out}: {len(index)} samples, {hours:.2f} h in {len(shards)} shards"
        + ("" if fresh else ", already packed")
    )
    if index.file.rejected:
        print(f"{index.file.rejected} records rejected, listed in {args.out / REJECTED_NAME}")
    return 0


def pack(manifest: Path, folder: Path, shard_bytes: int = SHARD_BYTES, workers: int = 1) -> tuple[ShardIndex, bool]:
    """Write the shards of a manifest into `folder`; returns their index and whether anything was written.

    A folder that already holds this manifest, cut at this size, is left alone. Raises UserError for a folder that
    holds other shards, a broken record, a manifest without usable audio, and a full disk; then no shard is left.
    """
    if shard_bytes < 1:
        raise UserError(f"--shard-bytes {shard_bytes}: it must be at least 1")
    records = _answered(manifest)
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    if (folder / FILE_NAME).exists():
        index = ShardIndex.load(folder)
        if (index.file.manifest, index.file.shard_bytes) == (digest, shard_bytes):
            return index, False
        raise UserError(f"{folder} holds shards of another manifest or --shard-bytes: name another --out, or delete it")
    if any(folder.glob("train-*.tar")):
        raise UserError(f"{folder} holds shards without {FILE_NAME}: delete them, or name another --out")
    writer = ShardWriter(folder, shard_bytes)
    try:
        with disk_errors(folder):
            rejected = _append(records, manifest, writer, workers)
            content = IndexFile(VERSION, digest, shard_bytes, len(rejected), writer.finish())
            writer.publish()
        if rejected:
            write_jsonl(folder / REJECTED_NAME, map(vars, rejected))
        write_atomic(folder / FILE_NAME, content.dump().encode())
    except BaseException:
        writer.discard()
        raise
    return ShardIndex.load(folder), True


def _append(records: list[dict], manifest: Path, writer: ShardWriter, workers: int) -> list[Rejected]:
    """Encode all records and append them in order; returns those whose audio does not decode."""
    rejected = []
    for result in track(ordered(encode, records, workers), f"packing {manifest}", len(records)):
        if isinstance(result, Rejected):
            rejected.append(result)
        else:
            writer.add(result)
    if len(rejected) == len(records):
        raise UserError(f"{manifest}: no audio decodes, the first is {rejected[0].reason}")
    return rejected


def _answered(manifest: Path) -> list[dict]:
    """The records of a manifest; UserError unless each has what training needs."""
    records = load_manifest(manifest)
    for record in records:
        if not record.get("messages"):
            raise UserError(
                f"{manifest}, record {record['id']!r}: it has no messages; run `caad-ds prep describe` first"
            )
        if not record.get("response"):
            raise UserError(
                f"{manifest}, record {record['id']!r}: it has no response; run `caad-ds prep pseudo-gt` first"
            )
    return records
