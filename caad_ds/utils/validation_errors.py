"""The mistakes that pydantic finds in a file, in our words and in one line."""

import difflib
from collections.abc import Sequence
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from caad_ds.utils.formatting import counted

NAMED = 5
EXPECTED = {
    "dict_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
    "list_type": "a list",
    "string_type": "a text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
}  # by pydantic's type of an error


def mistakes(error: ValidationError, kind: Any) -> str:
    """Word the errors of a value of type `kind`: unknown keys, then others; of more than NAMED the number."""
    found: dict[str, list[Any]] = {}  # of a union pydantic has an error for each of its types
    beside: dict[str, list[str]] = {}
    for item in sorted(error.errors(), key=lambda item: item["type"] != "extra_forbidden"):
        where, beside[where] = _place(item["loc"], kind)
        found.setdefault(where, []).append(item)
    # Where a union's type fits down to a part of the value, the types that do not fit at all tell nothing.
    deepest = [where for where in found if not any(other.startswith(f"{where}.") for other in found)]
    lines = [_worded(found[where], where, beside[where]) for where in deepest]
    more = f"; and {counted(len(lines) - NAMED, 'more mistake')}" if len(lines) > NAMED else ""
    return "; ".join(lines[:NAMED]) + more


def _worded(items: Sequence[Any], where: str, keys: Sequence[str]) -> str:
    """Word the errors at one place; `keys` are those that its mapping may have."""
    item = items[0]
    section, _, name = where.rpartition(".")
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, keys, n=1)
        meant = ".".join([*filter(None, [section]), *near])
        return f"unknown key {where}; {f'did you mean {meant}?' if near else 'remove it'}"
    if item["type"] == "missing":
        return f"{where} is missing"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error":
        return f"{where}: {message}" if where else message
    if item["type"] in EXPECTED:
        expected = dict.fromkeys(EXPECTED[each["type"]] for each in items if each["type"] in EXPECTED)
        message = f"expected {' or '.join(expected)}, found {_found(item['input'])}"
    elif item["type"] == "string_pattern_mismatch":
        message = f"{_found(item['input'])} does not match {item['ctx']['pattern']}"
    elif item["type"] == "too_short":
        message = f"needs at least {item['ctx']['min_length']}, has {item['ctx']['actual_length']}"
    elif message.startswith("Input should be "):
        message = f"expected {message.removeprefix('Input should be ')}, found {_found(item['input'])}"
    return f"{where or 'the file'}: {message[:1].lower()}{message[1:]}"


def _found(value: object) -> str:
    names = {dict: "a mapping", list: "a list", type(None): "nothing"}
    return names.get(type(value)) or f"{value!r:.60}"


def _place(location: Sequence[str | int], kind: Any) -> tuple[str, list[str]]:
    """Return a location by the names of a file, without the types that pydantic tried there, and the keys beside it."""
    names: list[str] = []
    keys: list[str] = []
    for part in location:
        kind = _plain(kind)
        fields = _fields(kind)
        if fields is not None:
            keys, kind = list(fields), fields.get(str(part))
            names.append(str(part))
        elif get_origin(kind) in (dict, list, tuple):
            kind = get_args(kind)[-1]
            names.append(str(part))
        elif get_args(kind):  # a union: the part is the name of one of its types
            kind = next((each for each in get_args(kind) if _tag(each) == part), None)
        else:
            names.append(str(part))
    return ".".join(names), keys


def _fields(kind: Any) -> dict[str, Any] | None:
    """Return the types of a model's keys, as the file names them; None for another type."""
    if not isinstance(kind, type) or not issubclass(kind, BaseModel):
        return None
    return {field.alias or name: field.annotation for name, field in kind.model_fields.items()}


def _plain(kind: Any) -> Any:
    """Return a type without annotations, and that of an optional value: pydantic names neither in a location."""
    if get_origin(kind) is Annotated:
        return _plain(get_args(kind)[0])
    types = [each for each in get_args(kind) if each is not type(None)]
    optional = type(None) in get_args(kind) and len(types) == 1
    return _plain(types[0]) if optional else kind


def _tag(kind: Any) -> str:
    """Return pydantic's name of a type in a union."""
    return getattr(kind, "__name__", "") if not get_args(kind) else str(kind)
