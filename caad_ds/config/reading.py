"""Load a configuration from YAML files and `--set`; errors name the key and the nearest known one."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from caad_ds.config.inheritance import BASE, Files, holder, merged, read_files
from caad_ds.config.key_names import unknown_key
from caad_ds.config.schema import Config
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import parse_yaml


def load_config(path: str | Path, overrides: list[str] | None = None) -> Config:
    """Read a YAML file with its bases and apply `a.b=value` overrides (values are YAML).

    Raises:
        UserError: A file cannot be read, or a key is wrong; the error names its file or override.
    """
    files = read_files(Path(path))
    values = merged(files)
    for override in overrides or []:
        _apply(values, override)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        by_source: dict[str, list[str]] = {}
        for item in error.errors():
            by_source.setdefault(_source(_location(item), files, overrides or []), []).append(_explain(item))
        mistakes = (f"{source}: {'; '.join(dict.fromkeys(errors))}" for source, errors in by_source.items())
        raise UserError("; ".join(mistakes)) from error


def _apply(values: dict, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"--set {override}: expected section.key=value")
    if key == BASE:
        raise UserError(f"--set {override}: {BASE} is read from a YAML file alone; name it there")
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


def _source(location: tuple, files: Files, overrides: list[str]) -> str:
    """Return the source of the key at a location: the last override of it or of its section, or else a file."""
    for override in reversed(overrides):
        key = override.partition("=")[0].split(".")
        if key == list(location[: len(key)]):
            return f"--set {override}"
    return str(holder(files, location))


def _location(error: Any) -> tuple:
    # For unions pydantic adds the tried branch, such as "dict[str,any]".
    return tuple(part for part in error["loc"] if part not in ("str", "dict[str,any]"))


def _explain(error: Any) -> str:
    location = ".".join(map(str, _location(error)))
    if error["type"] == "extra_forbidden":
        return unknown_key(error["loc"])
    if error["type"] == "missing":
        return f"{location} is missing"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"{location}: {message}" if location else message
    return f"{location}: {message} (got {error['input']!r})"
