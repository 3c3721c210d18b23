"""Read the files of a configuration: a YAML file and the `base` that it inherits from, which may have its own base."""

from pathlib import Path
from typing import Any

import yaml

from caad_ds.utils.errors import UserError
from caad_ds.utils.files import parse_yaml
from caad_ds.utils.text import read_text

BASE = "base"
Files = list[tuple[Path, dict]]


def read_files(path: Path) -> Files:
    """Read a file and its bases.

    Returns:
        Each file with its own keys, without `base`; the given file is first.

    Raises:
        UserError: A file is missing or not a mapping, a base is not a path, or files inherit from each other.
    """
    files = [(path, _read(path))]
    while (base := _take_base(*files[-1])) is not None:
        file = files[-1][0]
        if any(base.resolve() == earlier.resolve() for earlier, _ in files):
            raise UserError(f"{file}: its base {base} inherits from {file} again; remove `{BASE}` from one of them")
        try:
            files.append((base, _read(base)))
        except UserError as error:
            raise UserError(f"{file}: its base {error}") from None
    return files


def merged(files: Files) -> dict:
    """Return the values of all files: mappings are merged key by key, for others the first file's value counts."""
    values: dict = {}
    for _, own in reversed(files):
        values = _merge(values, own)
    return values


def holder(files: Files, location: tuple) -> Path:
    """Return the first file with the key at `location`, or else with most of the sections around it."""
    return max(files, key=lambda file: _depth(file[1], location))[0]


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
        content = "the file is empty" if values is None else f"found a {type(values).__name__}"
        raise UserError(f"{path}: expected sections (run:, data:, ...) but {content}; see configs/ for examples")
    return values


def _take_base(path: Path, values: dict) -> Path | None:
    """Remove `base` from the values of a file and return its path, None if there is none."""
    if BASE not in values:
        return None
    name = values.pop(BASE)
    if not isinstance(name, str) or not name:
        raise UserError(f"{path}: {BASE}: expected the path of a YAML file, relative to this one (got {name!r})")
    return path.parent / name


def _merge(values: dict, own: dict) -> dict:
    both = {key for key, value in own.items() if isinstance(value, dict) and isinstance(values.get(key), dict)}
    return values | {key: _merge(values[key], value) if key in both else value for key, value in own.items()}


def _depth(values: Any, location: tuple) -> int:
    """Count the parts of a location that a file's values have."""
    depth = 0
    for part in location:
        if not isinstance(values, dict) or part not in values:
            break
        values = values[part]
        depth += 1
    return depth
