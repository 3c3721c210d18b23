"""Read architectures: a model's config.json from which it is built with random weights."""

import json
from pathlib import Path
from typing import Any

from caad_ds.utils.errors import UserError
from caad_ds.utils.text import read_text


def is_architecture(name: str | Path) -> bool:
    """Return whether a name is a JSON file, and not a hub id or a folder."""
    return str(name).endswith(".json")


def read_architecture(path: str | Path) -> dict[str, Any]:
    """Read an architecture file; UserError if it is missing, not JSON, or names no model_type."""
    try:
        values = json.loads(read_text(Path(path)))
    except FileNotFoundError:
        raise UserError(f"{path}: no such architecture file; configs/paper/architectures has some") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give an architecture file") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}); correct that line") from None
    if not isinstance(values, dict) or not isinstance(values.get("model_type"), str):
        raise UserError(f"{path}: no model_type in it, such as llama; give a model's config.json")
    return values
