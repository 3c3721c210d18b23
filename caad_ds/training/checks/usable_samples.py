"""Find samples that a model cannot read, before the first step.

Audio that is too long or short is refused; texts that make no prompt, or one too long, are left out if the config says
so.

The result depends only on data, prompts, models and the length of drawn answers, which identify a run: the same samples
are left out on any number of ranks and on resume.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from caad_ds.data.decoded_sample import Sample
from caad_ds.data.shard_reader import IndexedReader
from caad_ds.models.reader import Reader
from caad_ds.training.export.corpora import Corpora, write_corpora
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import disk_errors, write_jsonl
from caad_ds.utils.launch import is_main
from caad_ds.utils.progress import Heartbeat
from caad_ds.utils.ranks import agreed, from_main, gathered, world

LIST = "unusable.jsonl"
Check = Callable[[Sample], object]  # UserError for a sample that cannot be used
LOOKED_AT = 16  # samples beyond a limit whose audio is decoded


def check_texts(
    checks: Mapping[IndexedReader, Check],
    folder: Path,
    resumes: bool,
    skip: bool,
    heartbeat: Heartbeat,
    corpora: bool = True,
) -> set[str]:
    """Encode the texts of every sample, each rank its share; return the keys of those left out. Every rank calls it.

    Samples that a check refuses are listed in `unusable.jsonl` in `folder`; with `skip` their readers leave them out.
    With `corpora`, `corpora.json` beside it counts the others by corpus. Nothing is checked again if the run `resumes`
    and has no such list.

    Raises:
        UserError: some samples are refused and `skip` is false, or none is left.
    """
    path = folder / LIST
    if from_main(lambda: resumes and not path.exists()):
        return set()
    readers = list(checks)
    refused, used = [], []
    for reader, check in checks.items():
        reasons, counts = _unusable(reader, check, heartbeat)
        refused.append(reasons)
        used.append((reader.index.folder, counts))
    agreed(lambda: _write(path, readers, refused) if is_main() else None)
    left_out: set[str] = set()
    for reader, reasons in zip(readers, refused, strict=True):
        if not reasons:
            continue
        count = f"{len(reasons)} of {len(reader)} samples cannot be used"
        note = f"{reader.index.folder}: {count} ({reasons[min(reasons)]}); {path} lists them"
        if not skip or len(reasons) == len(reader):
            raise UserError(f"{note}; correct them, or set data.skip_broken to leave them out" if not skip else note)
        left_out.update(reader.index.samples[number].key for number in reasons)
        reader.leave_out(reasons)
        heartbeat.say(f"left out: {note}")
    agreed(lambda: write_corpora(folder, used) if corpora and is_main() else None)
    return left_out


def _unusable(reader: IndexedReader, check: Check, heartbeat: Heartbeat) -> tuple[dict[int, str], Corpora]:
    """Return why samples cannot be used, by number in the index, and the corpora of the others, over all ranks."""
    rank, world_size = world()
    mine: dict[int, str] = {}
    corpora = Corpora()
    numbers = range(rank, len(reader), world_size)
    done = 0
    heartbeat.set_activity(lambda: f"checking texts: {done}/{len(numbers)} of this rank")

    def check_all() -> None:
        nonlocal done
        for number in numbers:
            try:
                sample = reader.without_audio(number)
                check(sample)
                corpora.count(sample.record, reader.index.samples[number].seconds)
            except UserError as error:
                mine[number] = str(error)
            done += 1

    agreed(check_all)
    every = gathered((mine, corpora))
    reasons = dict(sorted(item for each, _ in every for item in each.items()))
    return reasons, Corpora.merged(each for _, each in every)


def _write(path: Path, readers: Sequence[IndexedReader], refused: Sequence[dict[int, str]]) -> None:
    rows = [
        {"folder": str(reader.index.folder), "id": reader.index.samples[number].key, "reason": reason}
        for reader, reasons in zip(readers, refused, strict=True)
        for number, reason in reasons.items()
    ]
    with disk_errors(path.parent):
        path.unlink(missing_ok=True)  # from an earlier start
    if rows:
        write_jsonl(path, rows)


def check_lengths(reader: IndexedReader, readers: Sequence[Reader]) -> None:
    """Refuse data with an audio that is longer or shorter than a model takes, before a step is done.

    The index holds a sample's seconds over all its audios; some of the samples beyond a limit are decoded.
    """
    longest = min(readers, key=lambda each: each.longest_seconds)
    shortest = max(readers, key=lambda each: each.shortest_seconds)
    most, least = longest.longest_seconds, shortest.shortest_seconds
    entries = list(enumerate(reader.index.samples))
    long = [number for number, entry in entries if entry.seconds > most]
    short = [number for number, entry in entries if 0 < entry.seconds < least]
    _look(reader, longest, long, f"samples have more than {most:g} s")
    _look(reader, shortest, short, f"samples have less than {least:g} s")


def _look(reader: IndexedReader, model: Reader, numbers: Sequence[int], what: str) -> None:
    """Let a model check the audio of some of these samples."""
    index = reader.index
    for number in numbers[:: max(1, len(numbers) // LOOKED_AT)]:
        shard, entry = index.locate(number)
        where = f"{index.folder / shard.name}, sample {entry.key} ({len(numbers)} of {len(index)} {what}): "
        model.check_audio(reader[number].waveforms, where)
