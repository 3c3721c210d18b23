"""The key of a teacher cache: what its states depend on."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from caad_ds.distill.teacher_cache.row_layout import Layout
from caad_ds.utils.device import DTYPES
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import read_json, write_json

KEY = "cache.json"
FORM, PRECISION = "form (teacher.cache.form)", "run.precision"  # parts of the key that the layout needs
VERSION = 1  # of the files; add 1 when the stored values for the same model and data change
SHORT = 80  # characters of a value that is stored as text and shown if it differs; longer ones are hashed


def fingerprint(parts: Mapping[str, Any]) -> dict[str, str]:
    """Return what the states depend on, by name: values as text, long ones hashed."""
    texts = {name: str(value) for name, value in parts.items()}
    return {
        name: text if len(text) <= SHORT else f"sha256 {hashlib.sha256(repr(parts[name]).encode()).hexdigest()[:16]}"
        for name, text in texts.items()
    }


def read_key(folder: Path) -> dict[str, Any] | None:
    """Read a cache's key: what its states depend on; None if there is no cache yet."""
    path = folder / KEY
    if not path.exists():
        return None
    stored = read_json(path, "name another teacher.cache.path")
    if stored.get("version") != VERSION or not isinstance(stored.get("made_of"), dict):
        raise UserError(
            f"{path}: it is of version {stored.get('version')}, and this one reads {VERSION}; name another "
            "teacher.cache.path, or remove that folder"
        )
    positions = stored.get("positions", "")
    if type(stored.get("width")) is not int or not (positions is None or type(positions) is int):
        raise UserError(f"{path}: it lacks the width or the positions of the teacher; name another teacher.cache.path")
    return stored


def check_key(folder: Path, stored: Mapping[str, Any], made_of: Mapping[str, str]) -> None:
    """Raise UserError if a cache's key differs from the run's; the error names the differences."""
    in_cache = stored["made_of"]
    # Another form depends on other settings, which cannot be compared.
    another_form = FORM in in_cache and in_cache[FORM] != made_of.get(FORM)
    names = [FORM] if another_form else {**in_cache, **made_of}
    changed = [
        f"{name}: {in_cache.get(name, 'none')}, here {made_of.get(name, 'none')}"
        for name in names
        if in_cache.get(name) != made_of.get(name)
    ]
    if changed:
        raise UserError(
            f"teacher.cache.path {folder}: it was made with another {'; '.join(changed)}; restore that, or name "
            "another folder"
        )


def write_key(folder: Path, made_of: Mapping[str, str], notes: Mapping[str, Any]) -> None:
    """Write a cache's key; `notes` is what else a run that reads the cache needs to know."""
    write_json(folder / KEY, {**notes, "version": VERSION, "made_of": dict(made_of)})


def stored_layout(folder: Path, stored: Mapping[str, Any]) -> Layout:
    """Return the layout in a cache's key; UserError if it has none."""
    form, precision, width = stored["made_of"].get(FORM), stored["made_of"].get(PRECISION), stored.get("width")
    if form not in ("pair", "contrast") or precision not in DTYPES or type(width) is not int or width < 1:
        raise UserError(
            f"{folder / KEY}: it has no valid layout of the cache's rows (form {form}, precision {precision}, width "
            f"{width}); restore the file, or remove the folder and fill another"
        )
    return Layout(form, width, precision)
