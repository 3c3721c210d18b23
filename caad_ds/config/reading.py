"""A configuration from its YAML file and `--set`; a mistake is told by its key, beside the nearest that is known."""

import difflib
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from caad_ds.config.key_names import by_meaning
from caad_ds.config.schema import Config, Section
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import parse_yaml
from caad_ds.utils.text import read_text


def load_config(path: str | Path, overrides: list[str] | None = None) -> Config:
    """Read a YAML file and apply `a.b=value` overrides (values are YAML); a mistake raises UserError by key."""
    values = _read(Path(path))
    for override in overrides or []:
        _apply(values, override)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        given = {override.partition("=")[0]: f"--set {override}" for override in overrides or []}
        told: dict[str, list[str]] = {}
        for item in error.errors():
            told.setdefault(given.get(_location(item), str(path)), []).append(_explain(item))
        mistakes = (f"{where}: {'; '.join(dict.fromkeys(what))}" for where, what in told.items())
        raise UserError("; ".join(mistakes)) from error


def _read(path: Path) -> dict:
    try:
        values = parse_yaml(read_text(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file; see configs/ for examples") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a YAML file") from None
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise UserError(f"{path}{where}: not valid YAML ({problem}); correct that line") from None
    if not isinstance(values, dict):
        found = "the file is empty" if values is None else f"found a {type(values).__name__}"
        raise UserError(f"{path}: expected sections (run:, data:, ...) but {found}; see configs/ for examples")
    return values


def _apply(values: dict, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"--set {override}: expected section.key=value")
    *sections, last = key.split(".")
    for section in sections:
        if values.get(section) is None:
            values[section] = {}
        values = values[section]
        if not isinstance(values, dict):
            raise UserError(f"--set {override}: {section} is a value, not a section")
    try:
        values[last] = parse_yaml(text)
    except yaml.YAMLError:
        raise UserError(f"--set {override}: {text!r} is not a YAML value") from None


def _location(error: Any) -> str:
    # In a union pydantic adds the branch that it tried, such as "dict[str,any]".
    return ".".join(str(part) for part in error["loc"] if part not in ("str", "dict[str,any]"))


def _explain(error: Any) -> str:
    location = _location(error)
    if error["type"] == "extra_forbidden":
        name, within = str(error["loc"][-1]), error["loc"][:-1]
        meant = by_meaning(name)
        near = [f"{section}.{name}" for section in _sections_with(name)] + meant
        if not meant and (within or not near):
            near += difflib.get_close_matches(name, _keys_at(within), n=1, cutoff=0.4)
        return f"unknown key {location}" + (f"; did you mean {' or '.join(near)}?" if near else "")
    if error["type"] == "missing":
        return f"{location} is missing"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"{location}: {message}" if location else message
    return f"{location}: {message} (got {error['input']!r})"


def _sections_with(key: str) -> list[str]:
    return [section for section in Config.model_fields if key in _keys_at((section,))]


def _keys_at(location: tuple) -> list[str]:
    model: Any = Config
    for part in location:
        annotation = model.model_fields[part].annotation
        options = getattr(annotation, "__args__", (annotation,))
        model = next(option for option in options if isinstance(option, type) and issubclass(option, Section))
    return list(model.model_fields)
