"""A record: the object of a manifest's line, and of a sample's JSON in a shard.

pydantic checks it where it enters or leaves a file. It stays the dictionary that JSON gave, typed by its keys: written
again it has the same bytes, in the order of its keys and with the user's own among them, and plug-ins see plain JSON.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NotRequired, cast

from pydantic import AfterValidator, Field, InstanceOf, PlainValidator, TypeAdapter, ValidationError
from typing_extensions import ReadOnly, TypedDict

from caad_ds.data.markers import AUDIO, MARKERS

# pydantic's own str refuses half of a surrogate pair; whoever tokenises or writes a text says that in better words.
Text = InstanceOf[str]


class RecordFault(Exception):
    """Why a value is no record, in one line; whoever reads or writes the file adds where."""


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
    """A file, or with `offset` the part of it that begins there; `text` is what is said in it."""

    path: Annotated[Text, AfterValidator(_path)]
    text: NotRequired[Unmarked | None]
    offset: NotRequired[Seconds | None]
    duration: NotRequired[Seconds | None]


class Message(TypedDict):
    """A turn of the prompt; each audio is marked once in one of them (markers.py)."""

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
    """What training reads of an audio beside its samples."""

    text: NotRequired[Text | None]


class PackedMessage(TypedDict):
    """A turn, also of a shard from elsewhere; the prompt refuses a role that no template knows."""

    role: NotRequired[Text | None]
    content: NotRequired[Text | None]


class PackedRecord(TypedDict):
    """The record of a sample in a shard, of this project or from elsewhere: what training reads is there."""

    audios: list[PackedAudio]
    messages: list[PackedMessage]
    response: Text
    id: NotRequired[Any]


class PromptRecord(TypedDict):
    """What a prompt is made of, with the answer where there is one: a packed record, a benchmark's item."""

    id: ReadOnly[NotRequired[Any]]
    audios: ReadOnly[Sequence[PackedAudio | Audio]]
    messages: ReadOnly[Sequence[PackedMessage | Message]]
    response: ReadOnly[NotRequired[str | None]]


FIELDS = tuple(Record.__annotations__)  # in the order in which `prep ingest` writes them
_RECORD, _PACKED = TypeAdapter(Record), TypeAdapter(PackedRecord)


def as_record(value: Mapping[str, Any]) -> Record:
    """The object itself, typed; RecordFault unless it is a manifest record."""
    if errors := _errors(_RECORD, value):
        raise RecordFault(_told(errors[0], value))
    record = cast(Record, value)
    messages, audios = record.get("messages") or [], len(record["audios"])
    marks = sum(message["content"].count(AUDIO) for message in messages)
    if messages and marks != audios:
        raise RecordFault(f"'messages' hold {marks} {AUDIO} but 'audios' has {audios}; make them equal")
    return record


def as_packed(value: object) -> PackedRecord:
    """The object itself, typed; RecordFault unless it holds what training reads of a sample."""
    if errors := _errors(_PACKED, value):
        raise RecordFault(_told_packed(errors[0]["loc"]))
    record = cast(PackedRecord, value)
    marks = sum((message.get("content") or "").count(AUDIO) for message in record["messages"])
    if marks != len(record["audios"]):
        raise RecordFault(f"its messages hold {marks} {AUDIO}, its record {len(record['audios'])} audios")
    return record


def type_fault(value: Mapping[str, Any]) -> str | None:
    """Which field of a record an object holds with another type, or None; what is in the fields is not looked at."""
    wrong = (error for error in _errors(_RECORD, value) if len(error["loc"]) == 1 and _is_of_another_type(error))
    return next((_told(error, value) for error in wrong), None)


def _errors(form: TypeAdapter, value: object) -> list[Any]:
    """What pydantic finds wrong: fields of another type, then those that are missing, then what is in them."""
    try:
        form.validate_python(value, strict=True)  # strict: nothing is converted, so the object can stay as it is
    except ValidationError as error:
        found = error.errors(include_url=False)
        return sorted(found, key=lambda error: (len(error["loc"]) > 1, not _is_of_another_type(error)))
    return []


def _is_of_another_type(error: Any) -> bool:
    return error["type"] in ("is_instance_of", "list_type") and error["input"] is not None


def _told(error: Any, record: Any) -> str:
    """An error of pydantic in a manifest record as one line."""
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


def _told_packed(place: tuple[str | int, ...]) -> str:
    """The place of an error in the record of a sample as one line."""
    match place:
        case ("audios", _, *_):
            return "each of `audios` must be an object with text in text"
        case ("messages", _, *_):
            return "each of `messages` must be an object with role and content in text"
        case ("response",):
            return "the record is not an object with a str `response`"
    return f"the record is not an object with a list `{place[0] if place else 'audios'}`"
