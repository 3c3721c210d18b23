"""Mistakes that a run with a teacher cache refuses, and what must then be as it was."""

import shutil
from pathlib import Path

from caad_ds.distill.teacher_cache.filling_state import MARK

STEPS = {"optimizer": {"steps": 3}}  # an epoch
# The keys of a run, by the cache of fixture `caches` that is its own.
FORMS = {
    "pair": {},
    "contrast": {"cache": {"form": "contrast"}},
    "gated": {"cache": {"form": "contrast"}, "objective": {"alpha_gate": "text_certainty"}},
}


def content(folder: Path) -> dict[str, bytes]:
    """The files of a cache, without the mark of a training that has begun to fill it."""
    files = [path for path in folder.iterdir() if path.suffix != MARK] if folder.is_dir() else []
    return {path.name: path.read_bytes() for path in files}


def flip(file: Path, place: int) -> None:
    """Flip a bit of the byte at a place of a file."""
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


def other_weights(world: Path, folder: Path) -> dict:
    """The keys of a run whose teacher, made in `folder`, has other weights than the tiny world's."""
    flip(shutil.copytree(world / "teacher", folder) / "model.safetensors", -2)
    return {"teacher": {"path": str(folder)}}


def other_template(world: Path, folder: Path) -> dict:
    """The keys of a run whose teacher, made in `folder`, has another chat template than the tiny world's."""
    template = shutil.copytree(world / "teacher", folder) / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    return {"teacher": {"path": str(folder)}}
