"""Manifest files: one JSON record per line, checked when read and written all or not at all."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from caad_ds.data.markers import AUDIO
from caad_ds.errors import UserError
from caad_ds.files import write_atomic
from caad_ds.progress import waiting

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


@dataclass(frozen=True)
class Rejected:
    """A record that a step leaves out and lists beside its output, and why."""

    id: str
    reason: str


def to_line(value: dict) -> str:
    """A dictionary as one line of JSONL."""
    return json.dumps(value, ensure_ascii=False) + "\n"


def write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    """A JSONL file, replaced as a whole."""
    write_atomic(path, "".join(map(to_line, rows)).encode())


def read_jsonl(path: Path) -> Iterator[tuple[int, dict]]:
    """Line number (from 1) and object of each line that is not blank; UserError names a line that is no JSON object."""
    try:
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, _object(line, f"{path} line {number}")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: it is not UTF-8 text ({error.reason}); is it a JSONL file?") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def read_manifest(path: Path) -> list[dict]:
    """All records of a manifest, with the paths of their audios made absolute.

    Raises UserError, with file, line and field, for a line that is no record and for an id that comes twice.
    """
    records: list[dict] = []
    lines: dict[str, int] = {}
    with waiting(f"reading {path}"):
        for number, record in read_jsonl(path):
            where = f"{path} line {number}"
            validate(record, where)
            first = lines.setdefault(record["id"], number)
            if first != number:
                raise UserError(f"{where}: id {record['id']!r} is already on line {first}; ids must be unique")
            records.append(_with_paths(record, lambda audio: (path.parent / audio).absolute()))
    if not records:
        raise UserError(f"{path}: it holds no record; look at the step that wrote it")
    return records


def write_manifest(path: Path, records: list[dict]) -> None:
    """Write records as a manifest, replaced as a whole.

    Audio below the manifest's folder is named relative to it, so that the folder can be moved; other audio by its
    absolute path.
    """
    if path.suffix != ".jsonl":
        raise UserError(f"--out {path}: a manifest is written over what is there; name a file that ends in .jsonl")
    folder = path.parent.absolute()

    def relative(audio: str) -> Path:
        absolute = Path(audio).absolute()
        return absolute.relative_to(folder) if absolute.is_relative_to(folder) else absolute

    with waiting(f"writing {path}"):
        for record in records:
            validate(record, f"record {record.get('id')!r}")
        write_jsonl(path, (_with_paths(record, relative) for record in records))


def rejected_path(out: Path) -> Path:
    """Where a step lists what it left out of `out`: `manifest.jsonl` has `manifest.rejected.jsonl` beside it."""
    return out.with_name(f"{out.stem}.rejected.jsonl")


def write_rejected(out: Path, rejected: list[dict]) -> None:
    """The list `{id, reason}` of what was left out of `out`; an empty one removes the file."""
    path = rejected_path(out)
    if rejected:
        write_jsonl(path, rejected)
    else:
        path.unlink(missing_ok=True)


def validate(record: dict, where: str) -> None:
    """Raise UserError, beginning with `where`, unless the value is a manifest record (docs/architecture.md)."""
    check_types(record, where)
    for name in ("id", "audios"):
        if not record.get(name):
            raise UserError(f"{where}: field {name!r} is missing or empty")
    for audio in record["audios"]:
        if not isinstance(audio, dict) or not isinstance(audio.get("path"), str):
            raise UserError(f"{where}: each of 'audios' must be an object with a 'path', not {audio!r:.60}")
        if not isinstance(audio.get("text") or "", str):
            raise UserError(f"{where}: 'text' of an audio must be a text, not {audio['text']!r:.60}")
    _validate_messages(record, where)


def check_types(record: dict, where: str) -> None:
    """Raise UserError, beginning with `where`, if a manifest field is there and has another type than it should."""
    for name, kind in FIELDS.items():
        if record.get(name) is not None and not isinstance(record[name], kind):
            raise UserError(f"{where}: field {name!r} must be {KINDS[kind]}, not {record[name]!r:.60}")


def _validate_messages(record: dict, where: str) -> None:
    messages = record.get("messages") or []
    for message in messages:
        if not isinstance(message, dict) or not all(isinstance(message.get(name), str) for name in ("role", "content")):
            raise UserError(
                f"{where}: each of 'messages' must have a 'role' and a 'content' in text, not {message!r:.60}"
            )
    marks = sum(message["content"].count(AUDIO) for message in messages)
    if messages and marks != len(record["audios"]):
        raise UserError(
            f"{where}: 'messages' hold {marks} {AUDIO} but 'audios' has {len(record['audios'])}; make them equal"
        )


def _with_paths(record: dict, change: Callable[[str], Path]) -> dict:
    audios = [{**audio, "path": change(audio["path"]).as_posix()} for audio in record["audios"]]
    return {**record, "audios": audios}


def _object(line: str, where: str) -> dict:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where}: it is not JSON ({error.msg}, column {error.colno}); is the file cut short?"
        ) from error
    if not isinstance(value, dict):
        raise UserError(f"{where}: a record must be a JSON object, not {value!r:.60}")
    return value
