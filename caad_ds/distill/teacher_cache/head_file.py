"""The teacher's LM head in a teacher cache."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from caad_ds.distill.teacher_cache.row_layout import as_bytes
from caad_ds.loss.head import LMHead
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import disk_errors, follow_umask

HEAD = "head.safetensors"


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
