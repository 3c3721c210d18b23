"""The files of a teacher cache: its key, the layout of its rows, the teacher's LM head."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from caad_ds.loss.head import LMHead
from caad_ds.loss.teacher_scalars import SCALARS
from caad_ds.utils.device import DTYPES
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import disk_errors, follow_umask, read_json, write_json

KEY, HEAD = "cache.json", "head.safetensors"
FORM, PRECISION = "form (teacher.cache.form)", "run.precision"  # parts of the key that the layout needs
VERSION = 1  # of the files; add 1 when the stored values for the same model and data change
SHORT = 80  # characters of a value that is stored as text and shown if it differs; longer ones are hashed

CacheForm = Literal["pair", "contrast"]


@dataclass(frozen=True)
class Layout:
    """Layout of a sample's rows in a segment.

    In this order: `positive` [n, width], in form `pair` `negative` [n, width], and `scalars` float32 [n, 5].

    Args:
        form: `pair` stores both paths, for any alpha; `contrast` their contrast, in half the space.
        width: Ht, the teacher's hidden size.
        precision: of the states, `fp32` or `bf16`.
    """

    form: CacheForm
    width: int
    precision: Literal["fp32", "bf16"]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the states."""
        return DTYPES[self.precision]

    @property
    def bytes_per_row(self) -> int:
        """Bytes of an answer row."""
        paths = 2 if self.form == "pair" else 1
        return paths * self.width * self.dtype.itemsize + len(SCALARS) * torch.float32.itemsize

    def empty(self, rows: int) -> list[Tensor]:
        """Allocate uninitialized tensors for `rows` rows, in the order of the file."""
        states = [torch.empty(rows, self.width, dtype=self.dtype) for _ in range(2 if self.form == "pair" else 1)]
        return [*states, torch.empty(rows, len(SCALARS))]


def stored_layout(folder: Path, stored: Mapping[str, Any]) -> Layout:
    """Return the layout in a cache's key; UserError if it has none."""
    form, precision, width = stored["made_of"].get(FORM), stored["made_of"].get(PRECISION), stored.get("width")
    if form not in ("pair", "contrast") or precision not in DTYPES or type(width) is not int or width < 1:
        raise UserError(
            f"{folder / KEY}: it has no valid layout of the cache's rows (form {form}, precision {precision}, width "
            f"{width}); restore the file, or remove the folder and fill another"
        )
    return Layout(form, width, precision)


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
    write_json(folder / KEY, {"version": VERSION, "made_of": dict(made_of), **notes})


def write_head(folder: Path, head: LMHead) -> None:
    """Write the teacher's LM head atomically."""
    tensors = {"weight": head.weight.detach().cpu().contiguous()}
    if head.bias is not None:
        tensors["bias"] = head.bias.detach().cpu().contiguous()
    softcap = "" if head.softcap is None else repr(head.softcap)
    partial = folder / f".{HEAD}.partial"
    metadata = {"softcap": softcap, "scale": repr(head.scale), "sha256": _digest(tensors)}
    with disk_errors(folder):
        save_file(tensors, partial, metadata=metadata)
        partial.replace(folder / HEAD)
        follow_umask(folder)


def read_head(folder: Path) -> LMHead:
    """Read the LM head of a cache, on the CPU."""
    path = folder / HEAD
    try:
        with safe_open(path, "pt") as file:
            settings = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        if _digest(tensors) != settings["sha256"]:
            raise ValueError("its bytes have another sha256")
        softcap = float(settings["softcap"]) if settings["softcap"] else None
        return LMHead(tensors["weight"], tensors.get("bias"), softcap, float(settings["scale"]))
    except Exception as error:  # safetensors raises various errors for a damaged file
        raise UserError(
            f"{path}: the teacher's LM head cannot be read ({error}); remove the file and fill the cache again with "
            "`caad-ds cache-teacher`, which writes it"
        ) from error


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the sha256 of the tensors' names and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(as_bytes(tensors[name]))
    return digest.hexdigest()


def as_bytes(tensor: Tensor) -> memoryview:
    """View the memory of a contiguous CPU tensor as bytes; RuntimeError for others, which would be copied."""
    return tensor.view(-1).view(torch.uint8).numpy().data
