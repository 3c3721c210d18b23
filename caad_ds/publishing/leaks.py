"""Find secrets and machine paths in the text files of a model before they are uploaded."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from caad_ds.tracking.secrets import SECRET_IN_URI, TOKEN
from caad_ds.utils.absolute_paths import machine_path
from caad_ds.utils.errors import UserError
from caad_ds.utils.text import read_text

LARGEST_TEXT = 64 << 20  # bytes
PROSE = (".md", ".jinja")
VOCABULARIES = ("tokenizer.json", "vocab.json", "added_tokens.json", "tekken.json")  # their tokens may look like paths


def check_text(path: Path) -> None:
    """Raise UserError if a file holds a secret, or if a card or a JSON file (no vocabulary) names a machine path."""
    if path.stat().st_size > LARGEST_TEXT:
        raise UserError(f"{path}: too large for a file that holds no weights; move it away")
    text = read_text(path, "replace")
    if TOKEN.search(text):
        raise UserError(f"{path}: holds what looks like a token or a key; remove it, and revoke the token")
    if path.name in VOCABULARIES:
        return
    if path.suffix == ".json":
        strings: Iterator[str] = _strings(_parsed(path, text))
    elif path.suffix in PROSE:
        strings = iter(text.splitlines())
    else:
        return
    for string in strings:
        if SECRET_IN_URI.search(string):
            raise UserError(f"{path}: holds an address with what looks like a credential in it; remove it")
        if found := machine_path(string, path.suffix in PROSE):
            raise UserError(
                f"{path}: names {found}, which is on one machine alone; name a hub id there, or take it out"
            )


def _parsed(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); export or copy the model again") from error


def _strings(value: Any) -> Iterator[str]:
    """Yield all strings in a JSON value, including keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        if isinstance(value, dict):
            yield from value
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)
