"""A record: the JSON object of a manifest's line, and of a sample in a shard.

pydantic checks it when it is read from or written to a file. It stays the dictionary from JSON, typed by its keys:
written again it has the same bytes, with its order of keys and a user's own ones, and plug-ins get plain JSON.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NotRequired, cast

from pydantic import AfterValidator, Field, InstanceOf, PlainValidator, TypeAdapter, ValidationError
from typing_extensions import ReadOnly, TypedDict

from caad_ds.data.audio_markers import AUDIO, MARKERS

# pydantic's str refuses half of a surrogate pair; tokenising or writing a text reports that in better words.
Text = InstanceOf[str]


class RecordFault(Exception):
    """Why a value is not a record, in one line; callers add its location."""


def _seconds(value: Any) -> Any:
    if not isinstance(value, int | float) or not 0 <= value <= sys.float_info.max:
        raise ValueError
    return value


def _path(value: str) -> str:
    if "\0" in value:
        raise ValueError
    return value


def _unmarked(value: str) -> str:
    if held := next((marker for marker in MARKERS if marker in value), None):
        raise ValueError(held)
    return value


Seconds = Annotated[float, PlainValidator(_seconds)]
Unmarked = Annotated[Text, AfterValidator(_unmarked)]


class Audio(TypedDict):
    """A file, or with `offset` the part of it from there; `text` is its transcription."""

    path: Annotated[Text, AfterValidator(_path)]
    text: NotRequired[Unmarked | None]
    offset: NotRequired[Seconds | None]
    duration: NotRequired[Seconds | None]


class Message(TypedDict):
    """A turn of the prompt; each audio is marked once in one of them (audio_markers.py)."""

    role: Text
    content: Text


class Record(TypedDict):
    """A line of a manifest. `prep describe` adds `seed_description` and `messages`, `prep pseudo-gt` the `response`."""

    id: Annotated[Text, Field(min_length=1)]
    audios: Annotated[list[Audio], Field(min_length=1)]
    messages: NotRequired[list[Message] | None]
    metadata: NotRequired[InstanceOf[dict[str, Any]] | None]
    seed_description: NotRequired[Text | None]
    response: NotRequired[Unmarked | None]
    source: NotRequired[Text | None]


class PackedAudio(TypedDict):
    """The fields of an audio that training reads, besides its samples."""

    text: NotRequired[Text | None]


class PackedMessage(TypedDict):
    """A turn, perhaps in a foreign shard; the prompt encoder refuses unknown roles."""

    role: NotRequired[Text | None]
    content: NotRequired[Text | None]


class PackedRecord(TypedDict):
    """The record of a sample in a shard, of this project or foreign, with all fields that training reads."""

    audios: list[PackedAudio]
    messages: list[PackedMessage]
    response: Text
    id: NotRequired[Any]


class PromptRecord(TypedDict):
    """The fields of a prompt, and the answer if there is one: a packed record or a benchmark's item."""

    id: ReadOnly[NotRequired[Any]]
    audios: ReadOnly[Sequence[PackedAudio | Audio]]
    messages: ReadOnly[Sequence[PackedMessage | Message]]
    response: ReadOnly[NotRequired[str | None]]


FIELDS = tuple(Record.__annotations__)  # in the order in which `prep ingest` writes them
_RECORD, _PACKED = TypeAdapter(Record), TypeAdapter(PackedRecord)


def as_record(value: Mapping[str, Any]) -> Record:
    """Return the object itself, typed; RecordFault unless it is a manifest record."""
    if errors := _errors(_RECORD, value):
        raise RecordFault(_worded(errors[0], value))
    record = cast(Record, value)
    messages, audios = record.get("messages") or [], len(record["audios"])
    marks = sum(message["content"].count(AUDIO) for message in messages)
    if messages and marks != audios:
        raise RecordFault(f"'messages' hold {marks} {AUDIO} but 'audios' has {audios}; make them equal")
    return record


def as_packed(value: object) -> PackedRecord:
    """Return the object itself, typed; RecordFault unless it has the fields that training reads."""
    if errors := _errors(_PACKED, value):
        raise RecordFault(_worded_packed(errors[0]["loc"]))
    record = cast(PackedRecord, value)
    marks = sum((message.get("content") or "").count(AUDIO) for message in record["messages"])
    if marks != len(record["audios"]):
        raise RecordFault(f"its messages hold {marks} {AUDIO}, its record {len(record['audios'])} audios")
    return record


def type_fault(value: Mapping[str, Any]) -> str | None:
    """Return the first field of a record with a wrong type, or None; the content of fields is not checked."""
    wrong = (error for error in _errors(_RECORD, value) if len(error["loc"]) == 1 and _is_of_another_type(error))
    return next((_worded(error, value) for error in wrong), None)


def _errors(form: TypeAdapter, value: object) -> list[Any]:
    """Return pydantic's errors: fields of another type, then missing ones, then errors in their content."""
    try:
        form.validate_python(value, strict=True)  # strict: nothing is converted, so the object can stay as it is
    except ValidationError as error:
        errors = error.errors(include_url=False)
        return sorted(errors, key=lambda error: (len(error["loc"]) > 1, not _is_of_another_type(error)))
    return []


def _is_of_another_type(error: Any) -> bool:
    return error["type"] in ("is_instance_of", "list_type") and error["input"] is not None


def _worded(error: Any, record: Any) -> str:
    """Word a pydantic error in a manifest record in one line."""
    match error["loc"]:
        case ("audios", int(number), "text") if error["type"] == "value_error":
            return _held(error, "'text' of an audio")
        case ("audios", int(number), "text"):
            return f"'text' of an audio must be a text, not {error['input']!r:.60}"
        case ("audios", int(number), "offset" | "duration" as name):
            return f"{name!r} of an audio must be a number of seconds, not {error['input']!r:.60}"
        case ("audios", int(number), *_):
            return f"each of 'audios' must be an object with a 'path', not {record['audios'][number]!r:.60}"
        case ("messages", int(number), *_):
            message = record["messages"][number]
            return f"each of 'messages' must have a 'role' and a 'content' in text, not {message!r:.60}"
    (name,) = error["loc"]
    if error["type"] == "value_error":
        return _held(error, repr(name))
    if _is_of_another_type(error):
        kind = {"str": "a text", "dict": "an object"}.get(error.get("ctx", {}).get("class"), "a list")
        return f"field {name!r} must be {kind}, not {error['input']!r:.60}"
    return f"field {name!r} is missing or empty"


def _held(error: Any, what: str) -> str:
    return f"{what} holds {str(error['ctx']['error'])!r}, which marks audio in a message; remove it"


def _worded_packed(location: tuple[str | int, ...]) -> str:
    """Word an error at a location of a sample's record in one line."""
    match location:
        case ("audios", _, *_):
            return "each of `audios` must be an object with text in text"
        case ("messages", _, *_):
            return "each of `messages` must be an object with role and content in text"
        case ("response",):
            return "the record is not an object with a str `response`"
    return f"the record is not an object with a list `{location[0] if location else 'audios'}`"
