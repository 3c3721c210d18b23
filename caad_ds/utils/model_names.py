"""Names of models: folders, run folders and hub ids, checked before slow imports."""

from pathlib import Path

from caad_ds.utils.command import note
from caad_ds.utils.errors import UserError
from caad_ds.utils.launch import is_alone, is_main


def model_folder(text: str | Path) -> Path:
    """Return the model folder that an argument names: that folder, or `model/` in a run's folder.

    A hub id is returned unchanged, and looked up when the model is loaded (`models/auto.py`). UserError if there is
    neither.
    """
    path = Path(text)
    if is_hub_id(str(text)):
        return path
    if not (path / "config.json").is_file() and (path / "model" / "config.json").is_file():
        path = path / "model"
        if is_main():
            note(f"{text} is a run's folder; its model is {path}")
    if is_alone():
        check_model_folder(path)
    return path


def check_model_folder(path: Path) -> None:
    """Raise UserError unless a folder holds a model."""
    if (path / "config.json").is_file():
        return
    if not path.exists():
        raise UserError(f"{path}: no such folder; give the folder of a model, or a hub id")
    what = "give the folder of a model"
    if (path / "adapter_config.json").is_file():
        what = "those are adapters alone, `caad-ds export` without --keep-adapters writes a model"
    elif (path / "state.json").is_file():
        what = f"that is a checkpoint, `caad-ds export {path}` makes a model of it"
    elif (path / "checkpoints").is_dir():
        what = f"that run is not finished, `caad-ds export {path}` makes a model of its newest checkpoint"
    elif (path / "model" / "config.json").is_file():
        what = f"that is a run's folder, its model is {path / 'model'}"
    raise UserError(f"{path}: no model there (config.json is missing); {what}")


def is_hub_id(name: str) -> bool:
    """Return whether a name may be a hub id, `organisation/name`, and not a path: its first part is not a folder."""
    if name.count("/") != 1 or name.startswith(("/", ".", "~")) or name.endswith("/"):
        return False
    return not Path(name).parent.exists()


def run_name(model: Path) -> str:
    """Return a model's name for tables: its folder's; for `RUN/model`, where `train` writes it, the run's.

    For a hub id and its copy in the cache, the name without the organisation.
    """
    if is_hub_id(str(model)):
        return model.name
    folder = model.resolve()
    if folder.parent.name == "snapshots":  # models--ORGANISATION--NAME/snapshots/COMMIT
        return folder.parent.parent.name.rpartition("--")[2]
    return folder.parent.name if folder.name == "model" else folder.name


def check_hub_or_folder(name: str, what: str) -> None:
    """Raise UserError if a name can only be a path and does not exist; a hub id is not looked up.

    `what` names the kind of model in the message.
    """
    # A hub id has at most one slash, and never begins with one or with a dot.
    only_a_path = name.count("/") > 1 or name.startswith(("./", "../", "/"))
    if only_a_path and not Path(name).exists():
        article = "an" if what[0] in "AEIOaeio" else "a"
        raise UserError(f"{name}: no such folder, expected {article} {what}; make it first, or correct the path")
