"""`prep verify`: does a folder of shards still hold what its index says."""

import argparse
import hashlib
from pathlib import Path

from caad_ds.data import audio
from caad_ds.data.index import SampleEntry, Shard, ShardIndex
from caad_ds.data.reader import BrokenSample, parse
from caad_ds.progress import track


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `prep verify`."""
    parser.add_argument("folder", type=Path, help="folder with index.json")


def run(args: argparse.Namespace) -> int:
    """Check all shards; print each fault, exit status 1 if there is any."""
    index = ShardIndex.load(args.folder, check_files=False)
    found = faults(index)
    for fault in found:
        print(fault)
    print(f"{args.folder}: {len(index)} samples in {len(index.file.shards)} shards, {len(found)} faults")
    return 1 if found else 0


def faults(index: ShardIndex) -> list[str]:
    """Every fault, one line each: lengths, hashes, bytes outside any sample, members, audio broken or changed."""
    found = []
    shards = index.file.shards
    work = ((shard, entry) for shard in shards for entry in (*shard.samples, None))
    for shard, entry in track(work, f"verifying {index.folder}", len(index) + len(shards)):
        path = index.folder / shard.name
        try:
            fault = _shard(path, shard) if entry is None else _sample(path, entry)
        except OSError as error:
            fault = f"cannot be read ({error.strerror})"
        if fault:
            found.append(f"{path}: {fault}" if entry is None else f"{path}, sample {entry.key}: {fault}")
    return found


def _sample(path: Path, entry: SampleEntry) -> str | None:
    with open(path, "rb") as file:
        file.seek(entry.offset)
        block = file.read(entry.size)
    try:
        _, audios = parse(block, entry.key)
        pcm = [audio.decode(data, "int16") for data in audios]
    except (BrokenSample, audio.AudioError) as error:
        return str(error)
    return None if audio.pcm_hash(pcm) == entry.pcm else "its audio is not what was packed (pcm hash differs)"


def _shard(path: Path, shard: Shard) -> str | None:
    found = path.stat().st_size
    if found != shard.bytes:
        return f"{found} bytes where the index says {shard.bytes}"
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    if digest.hexdigest() != shard.sha256:
        return "its sha256 is not the index's"
    ends = [0, *(entry.offset + entry.size for entry in shard.samples)]
    if [entry.offset for entry in shard.samples] != ends[:-1]:
        return "the index's samples do not lie one after another"
    return None
