"""Finds audio of evaluation data in training data, by the hash of its decoded samples.

It finds the same recording from the same file, however it was packed. It cannot find audio with other samples: a lossy
copy (MP3, OGG), another cut, level or sampling rate, added noise, the same sentence recorded again. Speakers are
compared by metadata (disjoint.py).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from caad_ds.data.audio import decode, pcm16
from caad_ds.data.record import Audio
from caad_ds.data.shard_index import FILE_NAME, ShardIndex
from caad_ds.utils.errors import UserError
from caad_ds.utils.progress import progress, track
from data_prep.common.audio_entry import waveform
from data_prep.common.jsonl import Rejected
from data_prep.common.manifest import read_manifest
from data_prep.common.parallel import ordered
from data_prep.verify.disjoint import Values
from data_prep.verify.shard_check import audio_digest, check_shard

Clip = tuple[str, Audio]  # name and audio entry
Outcome = tuple[str, bytes | str]  # name and digest of the audio, or the reason for having none


@dataclass
class HeldOut:
    """Held-out audio.

    Args:
        columns: metadata columns to collect.
        names: name of an audio by digest.
        faults: audio that could not be compared, one line each.
        sizes: number of different audios by folder or file.
        values: metadata values of `columns` by folder or file.
    """

    columns: Sequence[str] = ()
    names: dict[bytes, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    values: dict[str, Values] = field(default_factory=dict)

    def add(self, path: Path, workers: int) -> None:
        """Add a folder of shards, a benchmark in MCR-BENCH's format, or a manifest; UserError for anything else."""
        found, uncompared = set(), len(self.faults)
        values = self.values[str(path)] = Values(self.columns)
        for name, outcome in _digests(path, workers, values):
            if isinstance(outcome, bytes):
                found.add(outcome)
                self.names.setdefault(outcome, f"{name} of {path}")
            else:
                self.faults.append(f"{path}, {name}: it cannot be compared with the shards ({outcome})")
        if not found and len(self.faults) == uncompared:
            raise UserError(f"--against {path}: it holds no audio; name shards, a benchmark or a manifest that does")
        self.sizes[str(path)] = len(found)


def _digests(path: Path, workers: int, values: Values) -> Iterator[Outcome]:
    """Yield name and digest of each audio, or the reason for having none; count the metadata in `values`."""
    if (path / FILE_NAME).exists():
        return _of_shards(ShardIndex.load(path, check_files=False), workers, values)
    if path.is_file():
        clips: Iterable[Clip | Rejected] = _of_manifest(path, values)
    elif path.is_dir():
        clips = _of_benchmark(path, values)
    else:
        raise UserError(f"--against {path}: there is no such folder or file; check the path")
    return track(ordered(_digest, _different(clips), workers), f"reading {path}")


def _of_shards(index: ShardIndex, workers: int, values: Values) -> Iterator[Outcome]:
    shards = index.file.shards
    reports = ordered(partial(check_shard, folder=index.folder, columns=values.columns), shards, workers)
    with progress(f"reading {index.folder}", len(index)) as advance:
        for shard, report in zip(shards, reports, strict=True):
            values.merge(report.values)
            yield from ((shard.name, fault) for fault in report.faults)
            for sample in report.samples:
                yield from ((shard.samples[sample.number].key, digest) for digest in sample.audios)
            advance(len(shard.samples))


def _of_manifest(path: Path, values: Values) -> Iterator[Clip | Rejected]:
    for record in read_manifest(path):
        if isinstance(record, Rejected):
            yield record
        else:
            values.add(record.get("metadata"))
            yield from ((record["id"], entry) for entry in record["audios"])


def _of_benchmark(path: Path, values: Values) -> Iterator[Clip | Rejected]:
    # It imports transformers' normaliser, which takes seconds.
    from caad_ds.evaluation.benchmarks.mcr_bench import Benchmark

    benchmark = Benchmark.load(path)
    yield from (Rejected(row["id"], row["reason"]) for row in benchmark.rejected)
    for row in benchmark.rows:
        values.add(row.metadata)
        yield row.id, {"path": str(row.clip.path)}


def _different(clips: Iterable[Clip | Rejected]) -> Iterator[Clip | Rejected]:
    """Yield each audio once, even if several prompts use it."""
    seen = set()
    for clip in clips:
        if isinstance(clip, Rejected):
            yield clip
            continue
        path, offset, duration = map(clip[1].get, ("path", "offset", "duration"))
        if (path, offset, duration) not in seen:
            seen.add((path, offset, duration))
            yield clip


def _digest(clip: Clip | Rejected) -> Outcome:
    if isinstance(clip, Rejected):
        return clip.id, clip.reason
    name, entry = clip
    try:
        return name, audio_digest(pcm16.to_pcm16(waveform(entry)))
    except (decode.AudioError, OSError) as error:
        return name, str(error)
