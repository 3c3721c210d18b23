"""Manifest files: one JSON record per line, streamed; checked when read, written atomically."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from caad_ds.data.record import Audio, Record, RecordFault, as_record
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import file_hash, to_line, writing
from caad_ds.utils.progress import track, waiting
from data_prep.common.file_formats import plain_line
from data_prep.common.jsonl import Rejected, count_lines, read_rows, readable, require_jsonl


def read_manifest(path: Path, what: str | None = None) -> Iterator[Record | Rejected]:
    """Yield the records of a manifest, with absolute audio paths.

    A line that is not a record or repeats an id yields a `Rejected` instead. `what` is the name of the progress bar,
    None for no bar. UserError for a file of another format, such as CSV.
    """
    require_jsonl(path)
    rows = read_rows(path)
    seen: set[str] = set()
    for number, row in track(rows, what, count_lines(path)) if what else rows:
        yield row if isinstance(row, Rejected) else _checked(row, number, path, seen)


def load_manifest(path: Path) -> list[Record]:
    """Load all records of a manifest; UserError names file, line and field of the first unusable one, or if empty."""
    records = []
    with waiting(f"reading {path}"):
        for record in read_manifest(path):
            if isinstance(record, Rejected):
                raise UserError(f"{path}: {record.id}: {record.reason}")
            records.append(record)
    if not records:
        raise UserError(f"{path}: it holds no record; look at the step that wrote it")
    return records


class ManifestWriter:
    """Context manager that streams records to a manifest, which appears on exit; without records there is no file.

    Audio below the manifest's folder is named relative to it, so that the folder can be moved; other audio by its
    absolute path.
    """

    def __init__(self, path: Path) -> None:
        check_output(path)
        self.path = path
        self.count = 0
        self._folder = path.parent.absolute()
        self._files = ExitStack()

    def write(self, record: Record) -> None:
        """Append a record; UserError if it is not valid."""
        try:
            as_record(record)
        except RecordFault as fault:
            raise UserError(f"record {record.get('id')!r}: {fault}") from fault
        if not self.count:
            self._file = self._files.enter_context(writing(self.path))
        self._file.write(to_line(_with_paths(record, self._relative)))
        self.count += 1

    def _relative(self, audio: str) -> Path:
        absolute = Path(audio).absolute()
        return absolute.relative_to(self._folder) if absolute.is_relative_to(self._folder) else absolute

    def __enter__(self) -> "ManifestWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.__exit__(kind, error, trace)


def check_output(out: Path, *inputs: Path) -> None:
    """Raise UserError if `out` would overwrite an input, or exists and is not named like a manifest.

    Call it before a step begins, which may run for days.
    """
    if out.suffix != ".jsonl":
        raise UserError(f"--out {out}: a manifest is written over what is there; name a file that ends in .jsonl")
    for path in inputs:
        if out.exists() and path.exists() and os.path.samefile(out, path):
            raise UserError(f"--out {out}: that is what is read; name another file")


def write_manifest(path: Path, records: Iterable[Record]) -> int:
    """Write records as a manifest atomically; returns their number, and writes nothing if it is 0."""
    with ManifestWriter(path) as manifest:
        for record in records:
            manifest.write(record)
    return manifest.count


def manifest_hash(path: Path) -> str:
    """Return the sha256 of a manifest; UserError if it cannot be read."""
    with waiting(f"reading {path}"), readable(path):
        return file_hash(path)


def _checked(row: dict, number: int, path: Path, seen: set[str]) -> Record | Rejected:
    where, folder = f"{path.name} line {number}", path.parent
    try:
        if other := plain_line(row, path):
            raise RecordFault(other)
        record = as_record(row)
    except RecordFault as fault:
        named = isinstance(row.get("id"), str) and row["id"]
        return Rejected(row["id"], f"{where}: {fault}") if named else Rejected(where, str(fault))
    if record["id"] in seen:
        return Rejected(record["id"], f"{where}: this id is on an earlier line as well; ids must be unique")
    seen.add(record["id"])
    return _with_paths(record, lambda audio: (folder / audio).absolute())


def _with_paths(record: Record, change: Callable[[str], Path]) -> Record:
    audios: list[Audio] = [{**audio, "path": change(audio["path"]).as_posix()} for audio in record["audios"]]
    return {**record, "audios": audios}
