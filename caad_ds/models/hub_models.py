"""Models of the hub: the local copy of an id, and whether there is one at all."""

from functools import cache
from pathlib import Path

from caad_ds.utils.errors import UserError, first_line

UNREAD = ("consolidated*",)  # the same weights once more, in Mistral's own format


@cache  # a process reads a single commit of a hub id
def snapshot(name: str, files: tuple[str, ...]) -> Path:
    """Return the local copy of a hub id, to which missing `files` are downloaded; UserError if it cannot be had."""
    from huggingface_hub import snapshot_download  # takes a while to import

    try:
        return Path(snapshot_download(name, allow_patterns=list(files), ignore_patterns=list(UNREAD)))
    except Exception as error:  # the libraries below huggingface_hub have no common base class
        reason = first_line(error).partition(". ")[0]
        raise UserError(
            f"{name}: no such folder, and no model of that id could be downloaded ({reason:.200}); give the folder of "
            "a model, or a hub id"
        ) from error


def check_hub_id(name: str) -> None:
    """Raise UserError unless a hub id has a folder in the cache, or a repository of that id can be reached."""
    from huggingface_hub import constants

    known = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" / "snapshots"
    if not known.is_dir():  # the hub is not asked for what is there: it may be out of reach
        snapshot(name, ("config.json",))
