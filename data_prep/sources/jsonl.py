"""Own data and public DeSTA manifests: a JSONL file, whose lines take one of four forms.

- plain: `{"audio", "text", "id"?, ...}`; every other column is metadata
- a manifest record of this project (docs/architecture.md)
- DeSTA 2.5: `{"messages": [{"role", "content", "audios": [{"audio", "text"}]}], "response", "id"?, ...}`
- DeSTA 2: `{"audios": [{"audio_filepath", "transcription"}], "messages", "target", "id"?, ...}`

No field is lost: further fields of a line become metadata, those of a message or an audio stay where they are, the
path as it is written (`audio`, `audio_filepath`) among them. What could be read in two ways is rejected.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from caad_ds.data.markers import AUDIO, END_AUDIO, START_AUDIO
from data_prep.jsonl import Rejected, read_rows
from data_prep.manifest import FIELDS, record_fault, type_fault

BARE_AUDIO = re.compile(f"(?:{re.escape(START_AUDIO)})?{re.escape(AUDIO)}(?:{re.escape(END_AUDIO)})?")
PATH_NAMES = ("path", "audio", "audio_filepath")
TEXT_NAMES = ("text", "transcription")
RESPONSE_NAMES = ("response", "target")


class _Fault(Exception):
    """Why a line is no record."""


def records(root: Path) -> Iterator[dict | Rejected]:
    """A record per line of the file (or of `manifest.jsonl` in the folder); audio paths are relative to its folder.

    An id that is missing becomes the file's name and the line's number.
    """
    listing = root / "manifest.jsonl" if root.is_dir() else root
    for number, row in read_rows(listing):
        if isinstance(row, dict):
            row = _record(row, listing, number)
        yield row


def _record(row: dict, listing: Path, number: int) -> dict | Rejected:
    record = {"id": f"{listing.stem}-{number:07d}", "source": "jsonl"}
    where = f"{listing.name} line {number}"
    try:
        record |= _convert(row)
    except _Fault as fault:
        return Rejected(where, str(fault))
    if reason := record_fault(record):
        return Rejected(where, reason)
    for audio in record["audios"]:
        audio["path"] = str(listing.parent / audio["path"])
    return record


def _convert(row: dict) -> dict:
    row = {**row, "id": str(row["id"])} if type(row.get("id")) is int else row  # true is one by isinstance
    if reason := type_fault(row):
        raise _Fault(reason)
    messages = [_message(message) for message in row.get("messages") or []]
    inside = [audio for message in messages for audio in message.pop("audios", None) or []]
    plain = {} if row.get("audios") or inside else {name: row[name] for name in row if name in PATH_NAMES + TEXT_NAMES}
    audios = row.get("audios") or inside or ([plain] if "audio" in plain else [])
    if not audios:
        raise _Fault("it names no audio; give 'audio', 'audios' or 'messages' with 'audios'")
    if inside and audios != inside:
        raise _Fault("'audios' and the 'audios' of its messages differ; leave out one of them")
    record = {name: row[name] for name in FIELDS if row.get(name) is not None}
    record["audios"] = [_audio(audio) for audio in audios]
    answer = _first(row, RESPONSE_NAMES)
    if answer:
        record["response"] = row[answer]
    used = {*FIELDS, *plain, answer or "target"}
    record["metadata"] = _merged({name: row[name] for name in row if name not in used}, row.get("metadata") or {})
    if messages:
        record["messages"] = messages
    return record


def _merged(fields: dict, metadata: dict) -> dict:
    """The metadata of a line and its further fields as one."""
    for name in fields.keys() & metadata.keys():
        if fields[name] != metadata[name]:
            raise _Fault(f"{name!r} is {fields[name]!r:.40} in the line and {metadata[name]!r:.40} in its 'metadata'")
    return {**fields, **metadata}


def _audio(audio: object) -> dict:
    name = _first(audio, PATH_NAMES) if isinstance(audio, dict) else None
    if not isinstance(audio, dict) or name is None or not isinstance(audio[name], str):
        raise _Fault(f"an audio must be an object with one of {', '.join(PATH_NAMES)}, not {audio!r:.60}")
    if audio.get("offset") is not None:
        raise _Fault("an audio with an 'offset' is part of a file; cut it out, and name the file with the part alone")
    text = _first(audio, TEXT_NAMES)
    others = {field: value for field, value in audio.items() if field != text}
    return {**others, "path": audio[name], "text": audio[text] if text else ""}


def _message(message: object) -> dict:
    if not isinstance(message, dict) or not isinstance(message.get("content"), str):
        raise _Fault(f"a message must be an object with a 'content' in text, not {message!r:.60}")
    if not isinstance(message.get("audios") or [], list):
        raise _Fault(f"'audios' of a message must be a list, not {message['audios']!r:.60}")
    return {**message, "content": BARE_AUDIO.sub(f"{START_AUDIO}{AUDIO}{END_AUDIO}", message["content"])}


def _first(row: dict, names: tuple[str, ...]) -> str | None:
    """The first of the names under which the row has a value."""
    return next((name for name in names if row.get(name) is not None), None)
