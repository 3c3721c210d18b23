"""`caad-ds config`: print the keys of a run's YAML with type, default and description from the schema."""

import argparse
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from caad_ds.config.key_names import section_at, section_of, unknown_key
from caad_ds.config.schema import Config
from caad_ds.config.section import Section
from caad_ds.utils.errors import UserError

WIDTH = 80
NAMES = {NoneType: "null", Path: "path", Any: "any"}


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `config`."""
    parser.add_argument(
        "key", nargs="?", metavar="KEY", help="a section or a key, such as optimizer or optimizer.lr; default: all keys"
    )


def run(args: argparse.Namespace) -> int:
    """Print the keys."""
    print(describe(args.key))
    return 0


def describe(key: str | None = None) -> str:
    """Describe a key and those below it, or all keys for None, in lines of 80 columns.

    UserError with suggestions for an unknown key.
    """
    if key is None:
        return "\n\n".join(map(describe, Config.model_fields))
    field = field_of(key)
    if field is None:
        raise UserError(unknown_key(tuple(key.split("."))))
    return "\n".join(_key(key, field))


def field_of(key: str) -> FieldInfo | None:
    """Return the schema's field of a key such as `optimizer.lr`; None if it does not exist."""
    *within, name = key.split(".")
    section = section_at(tuple(within))
    return section.model_fields.get(name) if section else None


def _key(key: str, field: FieldInfo) -> Iterator[str]:
    """Yield the lines of a key, and of those below it if it is a section."""
    below = section_of(field.annotation)
    head = f"{key}: {'section' if below else _type(field.annotation)}"
    if field.is_required():
        head += ", required"
    elif not isinstance(field.default, Section):
        head += f", default {_as_yaml(field.default)}"
    yield textwrap.fill(head, WIDTH, subsequent_indent=" " * 8)
    about = field.description or (below.__doc__ if below else None) or ""
    yield textwrap.fill(about, WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 4)
    for name, each in below.model_fields.items() if below else ():
        yield from _key(f"{key}.{name}", each)


def _type(annotation: Any) -> str:
    """Write a type in terms of YAML, such as `float | null`."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(parts[0])
    if origin is Literal:
        return " | ".join(map(str, parts))
    if origin in (Union, UnionType):
        return " | ".join(map(_type, parts))
    if origin is not None:
        return f"{'list' if origin is tuple else origin.__name__}[{', '.join(map(_type, parts))}]"
    return NAMES.get(annotation) or annotation.__name__


def _as_yaml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str).strip('"')
