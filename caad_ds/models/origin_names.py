"""Origin names of models in a saved config."""

from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from caad_ds.utils.files import read_json, write_json
from caad_ds.utils.model_names import is_hub_id

NAME = "_name_or_path"


def is_valid_id(name: str) -> bool:
    """Return whether a name is a valid hub id."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def names_hub(name: object) -> bool:
    """Return whether a config's origin name is a hub id, and not a folder."""
    return isinstance(name, str) and is_hub_id(name) and is_valid_id(name)


def drop_folder_names(folder: Path) -> None:
    """Blank each `_name_or_path` in a saved config.json and its parts that is not a hub id.

    transformers writes the folder that a part was loaded from, which is meaningless elsewhere and reveals local paths.
    """
    path = folder / "config.json"
    config = read_json(path, "save the model again")
    _drop(config)
    write_json(path, config)


def _drop(value: Any) -> None:
    if isinstance(value, dict):
        if NAME in value and not names_hub(value[NAME]):
            value[NAME] = ""
        for each in value.values():
            _drop(each)
    elif isinstance(value, list):
        for each in value:
            _drop(each)
