"""`prep join-shards`: join the parts that an array job packed into one folder.

The shards are unchanged; `index.json` lists them in the order of the parts, once all parts are there.
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from caad_ds.data.shard_index import VERSION, IndexFile, ShardIndex
from caad_ds.utils.array_task import Part
from caad_ds.utils.errors import UserError
from caad_ds.utils.progress import track, waiting
from data_prep.common.jsonl import Rejected, read_jsonl
from data_prep.common.rejects import Rejects, rejected_path
from data_prep.pack.pack import clean, summary
from data_prep.pack.shards import index_path

PART_INDEX = re.compile(r"index\.(\d{5})-of-(\d{5})\.json")


def register(parser: argparse.ArgumentParser) -> None:
    """Add the argument of `prep join-shards`."""
    parser.add_argument("folder", type=Path, help="folder that `prep pack --shard` packed all parts into")


def run(args: argparse.Namespace) -> int:
    """Write `index.json` and the list of rejected records; print a summary."""
    print(summary(join(args.folder), args.folder))
    return 0


def join(folder: Path) -> ShardIndex:
    """Write the index of all parts in a folder; the parts' own indexes stay.

    Raises UserError unless all parts are there, of one manifest, and their shards have the sizes of their indexes.
    """
    parts = _parts(folder)
    files = [
        ShardIndex.load(folder, name=index_path(folder, part).name).file
        for part in track(parts, f"reading the parts in {folder}", len(parts))
    ]
    first = files[0]
    if any((f.manifest, f.shard_bytes, f.rules) != (first.manifest, first.shard_bytes, first.rules) for f in files):
        raise UserError(f"{folder}: its parts are of different manifests, --shard-bytes or rules; pack them again")
    shards = [shard for file in files for shard in file.shards]
    out = index_path(folder)
    with Rejects(out) as rejects, waiting(f"writing {out}"):
        for rejected in _rejected(folder, parts):
            rejects.add(rejected)
    if not shards:
        raise UserError(f"{folder}: no record of any part is usable{rejects.why}")
    content = IndexFile(VERSION, first.manifest, first.shard_bytes, rejects.count, shards, first.rules)
    with waiting(f"writing {out}"):
        content.write(out)
    clean(out, "train")
    return ShardIndex.load(folder)


def _parts(folder: Path) -> list[Part]:
    """Find the parts by their indexes in the folder; UserError unless all parts of one division are there."""
    found = [match for path in sorted(folder.glob("index.*.json")) if (match := PART_INDEX.fullmatch(path.name))]
    if not found:
        raise UserError(f"{folder}: no part of an array job is here; run `caad-ds prep pack --shard I/N`")
    counts = sorted({int(match[2]) for match in found})
    if len(counts) > 1:
        raise UserError(f"{folder}: it holds parts of {counts[0]} and of {counts[1]}; delete those that are not wanted")
    parts = [Part(index, counts[0]) for index in range(counts[0])]
    if missing := [part for part in parts if not index_path(folder, part).exists()]:
        raise UserError(
            f"{folder}: {len(missing)} of {counts[0]} parts are missing or not finished, the first is "
            f"{missing[0].index}; run `caad-ds prep pack --shard {missing[0].index}/{counts[0]}` again"
        )
    return parts


def _rejected(folder: Path, parts: list[Part]) -> Iterator[Rejected]:
    for part in parts:
        path = rejected_path(index_path(folder, part))
        for _, row in read_jsonl(path) if path.exists() else ():
            yield Rejected(row["id"], row["reason"])
