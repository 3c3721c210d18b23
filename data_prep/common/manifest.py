"""Manifest files: one JSON record per line, streamed; checked when read, and written all or not at all."""

import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from caad_ds.data.markers import AUDIO, MARKERS
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import to_line, writing
from caad_ds.utils.progress import track, waiting
from data_prep.common.forms import plain_line
from data_prep.common.jsonl import Rejected, count_lines, opened, read_rows, require_jsonl

FIELDS: dict[str, type] = {
    "id": str,
    "audios": list,
    "messages": list,
    "metadata": dict,
    "seed_description": str,
    "response": str,
    "source": str,
}
KINDS: dict[type, str] = {str: "a text", list: "a list", dict: "an object"}


def read_manifest(path: Path, what: str | None = None) -> Iterator[dict | Rejected]:
    """The records of a manifest as they are read, with the paths of their audios made absolute.

    In place of a line that is no record, or whose id has been there, comes the `Rejected` that says so. With `what`
    the progress is reported under that name. UserError for a file of another form, such as CSV.
    """
    require_jsonl(path)
    rows = read_rows(path)
    seen: set[str] = set()
    for number, row in track(rows, what, count_lines(path)) if what else rows:
        yield row if isinstance(row, Rejected) else _checked(row, number, path, seen)


def load_manifest(path: Path) -> list[dict]:
    """All records of a manifest; UserError, with file, line and field, for the first that is unusable, or if none is
    there."""
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
    """A context that writes records as they come; the manifest is there when it ends, and none if no record came.

    Audio below the manifest's folder is named relative to it, so that the folder can be moved; other audio by its
    absolute path.
    """

    def __init__(self, path: Path) -> None:
        check_output(path)
        self.path = path
        self.count = 0
        self._folder = path.parent.absolute()
        self._files = ExitStack()

    def write(self, record: dict) -> None:
        """Append a record; UserError if it is none."""
        validate(record, f"record {record.get('id')!r}")
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
    """UserError where a manifest cannot be written: over what the step reads, or what is no manifest by its name.

    To be called before a step begins; it may last for days.
    """
    if out.suffix != ".jsonl":
        raise UserError(f"--out {out}: a manifest is written over what is there; name a file that ends in .jsonl")
    for path in inputs:
        if out.exists() and path.exists() and os.path.samefile(out, path):
            raise UserError(f"--out {out}: that is what is read; name another file")


def write_manifest(path: Path, records: Iterable[dict]) -> int:
    """Write records as a manifest, replaced as a whole; returns their number, and writes nothing where it is 0."""
    with ManifestWriter(path) as manifest:
        for record in records:
            manifest.write(record)
    return manifest.count


def manifest_hash(path: Path) -> str:
    """sha256 of a manifest; UserError if it cannot be read."""
    with waiting(f"reading {path}"), opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def validate(record: dict, where: str) -> None:
    """Raise UserError, beginning with `where`, unless the value is a manifest record (docs/architecture.md)."""
    if fault := record_fault(record):
        raise UserError(f"{where}: {fault}")


def record_fault(record: dict) -> str | None:
    """Why a JSON object is no manifest record, or None."""
    if fault := type_fault(record):
        return fault
    for name in ("id", "audios"):
        if not record.get(name):
            return f"field {name!r} is missing or empty"
    for audio in record["audios"]:
        if not isinstance(audio, dict) or not isinstance(audio.get("path"), str) or "\0" in audio["path"]:
            return f"each of 'audios' must be an object with a 'path', not {audio!r:.60}"
        if not isinstance(audio.get("text") or "", str):
            return f"'text' of an audio must be a text, not {audio['text']!r:.60}"
        if held := _marker(audio.get("text")):
            return f"'text' of an audio holds {held!r}, which marks audio in a message; remove it"
        for name in ("offset", "duration"):
            value = audio.get(name) or 0
            if not isinstance(value, int | float) or not 0 <= value <= sys.float_info.max:
                return f"{name!r} of an audio must be a number of seconds, not {value!r:.60}"
    if held := _marker(record.get("response")):
        return f"'response' holds {held!r}, which marks audio in a message; remove it"
    return _message_fault(record)


def type_fault(record: dict) -> str | None:
    """Which manifest field is there and has another type than it should, or None."""
    for name, kind in FIELDS.items():
        if record.get(name) is not None and not isinstance(record[name], kind):
            return f"field {name!r} must be {KINDS[kind]}, not {record[name]!r:.60}"
    return None


def _checked(row: dict, number: int, path: Path, seen: set[str]) -> dict | Rejected:
    where, folder = f"{path.name} line {number}", path.parent
    if fault := plain_line(row, path) or record_fault(row):
        named = isinstance(row.get("id"), str) and row["id"]
        return Rejected(row["id"], f"{where}: {fault}") if named else Rejected(where, fault)
    if row["id"] in seen:
        return Rejected(row["id"], f"{where}: this id is on an earlier line as well; ids must be unique")
    seen.add(row["id"])
    return _with_paths(row, lambda audio: (folder / audio).absolute())


def _marker(text: str | None) -> str | None:
    return next((marker for marker in MARKERS if marker in (text or "")), None)


def _message_fault(record: dict) -> str | None:
    messages = record.get("messages") or []
    for message in messages:
        if not isinstance(message, dict) or not all(isinstance(message.get(name), str) for name in ("role", "content")):
            return f"each of 'messages' must have a 'role' and a 'content' in text, not {message!r:.60}"
    marks = sum(message["content"].count(AUDIO) for message in messages)
    if messages and marks != len(record["audios"]):
        return f"'messages' hold {marks} {AUDIO} but 'audios' has {len(record['audios'])}; make them equal"
    return None


def _with_paths(record: dict, change: Callable[[str], Path]) -> dict:
    audios = [{**audio, "path": change(audio["path"]).as_posix()} for audio in record["audios"]]
    return {**record, "audios": audios}
