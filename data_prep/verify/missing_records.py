"""Checks that every record of a manifest is either in the shards, once, or in the list of rejected records."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from caad_ds.data.shard_index import ShardIndex
from data_prep.common.jsonl import Rejected
from data_prep.common.manifest import manifest_hash, read_manifest


def unaccounted(index: ShardIndex, manifest: Path, rejected: Counter[str]) -> Iterator[str]:
    """Yield a line per lost, duplicated or foreign record; `rejected` counts the ids of rejected records."""
    if (digest := manifest_hash(manifest)) != index.file.manifest:
        yield f"{manifest}: it is not the manifest that was packed (sha256 {digest[:12]}, {index.file.manifest[:12]})"
    packed = {unquote(entry.key) for entry in index.samples}
    foreign, again, total = set(packed), Counter[str](), 0
    undecided = []  # packed and rejected, or neither; correct if the manifest has the id twice
    for record in read_manifest(manifest, f"comparing {manifest}"):
        total += 1
        if isinstance(record, Rejected):
            again[record.id] += 1
            continue
        name = record["id"]
        foreign.discard(name)
        if (name in packed) == (name in rejected):
            undecided.append(name)
    for name in undecided:
        if name not in packed:
            yield f"{manifest}, record {name}: it is neither packed nor rejected"
        elif rejected[name] > again[name]:
            yield f"{manifest}, record {name}: it is packed and on the list of rejected records as well"
    for name in sorted(foreign):
        yield f"{index.folder}: sample {name} is not in {manifest}"
    if total != len(index) + rejected.total():
        yield (
            f"{manifest}: {total} records, but {len(index)} samples are packed and {rejected.total()} records are on "
            "the list of rejected ones"
        )
