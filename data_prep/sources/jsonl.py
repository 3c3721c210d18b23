"""Own data and public DeSTA manifests: a JSONL file, whose lines take one of four forms.

- plain: `{"audio", "text", "id"?, ...}`; every other column is metadata
- a manifest record of this project (docs/architecture.md)
- DeSTA 2.5: `{"messages": [{"role", "content", "audios": [{"audio", "text"}]}], "response", "id"?, ...}`
- DeSTA 2: `{"audios": [{"audio_filepath", "transcription"}], "messages", "target", "id"?, ...}`
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
    where = f"{listing} line {number}"
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
    row = {**row, "id": str(row["id"])} if isinstance(row.get("id"), int) else row
    if reason := type_fault(row):
        raise _Fault(reason)
    messages = [_message(message) for message in row.get("messages") or []]
    inside = [audio for message in messages for audio in message.pop("audios", None) or []]
    audios = row.get("audios") or inside or ([row] if "audio" in row else [])
    if not audios:
        raise _Fault("it names no audio; give 'audio', 'audios' or 'messages' with 'audios'")
    known = {*FIELDS, *RESPONSE_NAMES, *(PATH_NAMES + TEXT_NAMES if audios == [row] else ())}
    record = {name: row[name] for name in FIELDS if row.get(name) is not None}
    record["audios"] = [_audio(audio) for audio in audios]
    record["metadata"] = {
        **{name: value for name, value in row.items() if name not in known},
        **(row.get("metadata") or {}),
    }
    response = _first(row, RESPONSE_NAMES)
    if response is not None:
        record["response"] = response
    if messages:
        record["messages"] = messages
    return record


def _audio(audio: object) -> dict:
    path = _first(audio, PATH_NAMES) if isinstance(audio, dict) else None
    if not isinstance(audio, dict) or not isinstance(path, str):
        raise _Fault(f"an audio must be an object with one of {', '.join(PATH_NAMES)}, not {audio!r:.60}")
    return {"path": path, "text": _first(audio, TEXT_NAMES) or ""}


def _message(message: object) -> dict:
    if not isinstance(message, dict) or not isinstance(message.get("content"), str):
        raise _Fault(f"a message must be an object with a 'content' in text, not {message!r:.60}")
    if not isinstance(message.get("audios") or [], list):
        raise _Fault(f"'audios' of a message must be a list, not {message['audios']!r:.60}")
    return {**message, "content": BARE_AUDIO.sub(f"{START_AUDIO}{AUDIO}{END_AUDIO}", message["content"])}


def _first(row: dict, names: tuple[str, ...]) -> object:
    return next((row[name] for name in names if row.get(name) is not None), None)
