"""Own data and public DeSTA manifests: a JSONL file, whose lines take one of four forms.

- plain: `{"audio", "text", "id"?, ...}`; every other column is metadata
- a manifest record of this project (docs/architecture.md)
- DeSTA 2.5: `{"messages": [{"role", "content", "audios": [{"audio", "text"}]}], "response", "id"?, ...}`
- DeSTA 2: `{"audios": [{"audio_filepath", "transcription"}], "messages", "target", "id"?, ...}`

An audio with an `offset` (seconds) is the part of its file that begins there and lasts `duration` seconds, or to the
end. No field is lost: further fields of a line become metadata, those of a message or an audio stay where they are.
Ambiguous lines are rejected.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from caad_ds.data.audio_markers import AUDIO as MARK
from caad_ds.data.audio_markers import END_AUDIO, START_AUDIO
from caad_ds.data.record import FIELDS, type_fault
from caad_ds.utils.errors import UserError
from data_prep.common import file_formats
from data_prep.common.jsonl import Rejected
from data_prep.ingest.table import TEXT_NAMES, Fault, Row, first_given, identity_of, json_rows, seconds, take_audio

BARE_AUDIO = re.compile(f"(?:{re.escape(START_AUDIO)})?{re.escape(MARK)}(?:{re.escape(END_AUDIO)})?")
AUDIO = ("audio",)
PATH_NAMES = ("path", "audio", "audio_filepath")
RESPONSE_NAMES = ("response", "target")


def rows(root: Path) -> Iterator[Row | Rejected]:
    """Yield a row per line of the file, or of `manifest.jsonl` in the folder; UserError if the folder has none."""
    listing = root / "manifest.jsonl" if root.is_dir() else root
    if root.is_dir() and not listing.exists():
        raise UserError(f"{root}: it holds no manifest.jsonl: {file_formats.in_folder(root)}")
    return json_rows(listing, root)


def convert(row: dict, audio: Sequence[str]) -> dict:
    """Convert a line of any form to a record; Fault if it is none or ambiguous."""
    row = {**row, "id": identity_of(row.get("id"))}
    if reason := type_fault(row):
        raise Fault(reason)
    messages = [_message(message) for message in row.get("messages") or []]
    inside = [audio for message in messages for audio in message.pop("audios", None) or []]
    if inside and (row.get("audios") or inside) != inside:
        raise Fault("'audios' and the 'audios' of its messages differ; leave out one of them")
    if nested := row.get("audios") or inside:
        audios, others = [_audio(audio) for audio in nested], row
    else:
        entry, others = _plain(row, audio)
        audios = [entry]
    record = {name: row[name] for name in FIELDS if row.get(name) is not None} | {"audios": audios}
    answer = first_given(row, RESPONSE_NAMES)
    if answer:
        record["response"] = row[answer]
    used = {*FIELDS, answer or "target"}
    record["metadata"] = _merged({name: others[name] for name in others if name not in used}, row.get("metadata") or {})
    if messages:
        record["messages"] = messages
    return record


def _plain(row: dict, audio: Sequence[str]) -> tuple[dict, dict]:
    if "audio_filepath" in row and not row.keys() & {*audio}:
        raise Fault("it names no 'audio'; with 'audio_filepath' it is a line of NeMo, which `prep ingest nemo` reads")
    return take_audio(row, audio)


def _merged(fields: dict, metadata: dict) -> dict:
    """Merge the metadata of a line with its further fields."""
    for name in fields.keys() & metadata.keys():
        if fields[name] != metadata[name]:
            raise Fault(f"{name!r} is {fields[name]!r:.40} in the line and {metadata[name]!r:.40} in its 'metadata'")
    return {**fields, **metadata}


def _audio(audio: object) -> dict:
    name = first_given(audio, PATH_NAMES) if isinstance(audio, dict) else None
    if not isinstance(audio, dict) or name is None or not isinstance(audio[name], str):
        raise Fault(f"an audio must be an object with one of {', '.join(PATH_NAMES)}, not {audio!r:.60}")
    text = first_given(audio, TEXT_NAMES)
    # The duration of a part is given; that of a whole file will be measured.
    place = ("offset", "duration") if audio.get("offset") is not None else ()
    given = {field: seconds(field, audio[field]) for field in place if audio.get(field) is not None}
    others = {field: value for field, value in audio.items() if field not in (text, "offset", "duration")}
    return {**others, **given, "path": audio[name], "text": audio[text] if text else ""}


def _message(message: object) -> dict:
    if not isinstance(message, dict) or not isinstance(message.get("content"), str):
        raise Fault(f"a message must be an object with a 'content' in text, not {message!r:.60}")
    if not isinstance(message.get("audios") or [], list):
        raise Fault(f"'audios' of a message must be a list, not {message['audios']!r:.60}")
    return {**message, "content": BARE_AUDIO.sub(f"{START_AUDIO}{MARK}{END_AUDIO}", message["content"])}
