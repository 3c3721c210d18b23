"""Checkpoints: written beside, named last; a pointer says which is whole."""

import hashlib
import json
import os
import random
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save_file

from caad_ds.errors import UserError
from caad_ds.files import disk_errors, write_atomic
from caad_ds.training.distributed import agreed
from caad_ds.training.engines import full_weights

POINTER = "latest"
BYTES_PER_WEIGHT = 20  # at most: AdamW's two moments and the fp32 master, DeepSpeed's copy and ours
BYTES_BESIDE = 256_000  # headers, random states


@dataclass(frozen=True)
class RunState:
    """What a checkpoint says of the run: `step` optimizer steps are done, and that is also the data position."""

    step: int
    world_size: int
    identity: str
    tracking_id: str | None


class Checkpoints:
    """The checkpoints of one run, under `output_dir/checkpoints`.

    Each is a folder `step-N`: `trainable.safetensors` (gathered), DeepSpeed's shards, the random state of every rank
    and `state.json` with the sha256 of every other file. It is written under a temporary name and renamed once all
    ranks are done; then the pointer is replaced. Hashes are checked before DeepSpeed unpickles anything.
    """

    def __init__(self, output_dir: Path, keep: int):
        self.root = output_dir / "checkpoints"
        self.keep = keep

    def newest(self) -> Path | None:
        """The checkpoint that the pointer names, None if the run has none."""
        pointer = self.root / POINTER
        if not pointer.is_file():
            return None
        folder = self.root / pointer.read_text(errors="replace").strip()
        if not (folder / "state.json").is_file():
            raise UserError(
                f"{pointer} names {folder.name!r}, which is not whole; name another step-N in it, or remove it"
            )
        return folder

    def save(self, engine: Any, state: RunState) -> Path:
        """Write a checkpoint; every rank calls it. A full disk raises UserError and leaves the older ones alone."""
        agreed(lambda: self._require_space(engine))
        with disk_errors(self.root):
            return self._save(engine, state)

    def _require_space(self, engine: Any) -> None:
        """Asked before any rank writes: in the middle, a rank that fails would leave the others at a barrier."""
        trainable = sum(getattr(p, "ds_numel", p.numel()) for p in engine.module.parameters() if p.requires_grad)
        need = trainable * BYTES_PER_WEIGHT + BYTES_BESIDE
        with disk_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(self.root).free) < need:
            raise UserError(
                f"{self.root}: no space for a checkpoint, {need / 1e6:.1f} MB needed, {free / 1e6:.1f} MB free; "
                "free some or use another run.output_dir"
            )

    def _save(self, engine: Any, state: RunState) -> Path:
        rank = dist.get_rank()
        final = self.root / f"step-{state.step:08d}"
        partial = final.with_suffix(".partial")
        if rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        dist.barrier()
        engine.save_checkpoint(str(partial), tag="deepspeed", save_latest=False, exclude_frozen_parameters=True)
        trainable = full_weights(engine, prefix="student.", trainable_only=True)
        agreed(lambda: self._write_random(partial))
        agreed(lambda: self._seal(partial, final, state, trainable) if rank == 0 else None)
        return final

    def _write_random(self, partial: Path) -> None:
        with disk_errors(self.root):
            torch.save(_random_state(), partial / f"random-{dist.get_rank()}.pt")

    def verify(self, folder: Path, identity: str) -> RunState:
        """What `folder` says of the run; a checkpoint of another run or a damaged one is refused by a UserError."""
        instead = f"name an older checkpoint in {self.root / POINTER}, or remove {self.root} to start over"
        try:
            recorded = json.loads((folder / "state.json").read_text())
            state, hashes = RunState(**recorded["state"]), sorted(recorded["sha256"].items())
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{folder / 'state.json'}: damaged ({error}); {instead}") from error
        if state.identity != identity:
            raise UserError(
                f"{folder}: made from another teacher, start or data; use another run.output_dir, "
                "or remove the folder to start over"
            )
        if state.world_size != dist.get_world_size():
            raise UserError(
                f"{folder}: made by {state.world_size} ranks, resumed by {dist.get_world_size()}; "
                f"start {state.world_size} ranks"
            )
        # Each rank hashes its share; `verify` is called by all, none goes on unless all agree.
        for name, digest in hashes[dist.get_rank() :: dist.get_world_size()]:
            path = folder / name
            if not path.is_file() or _sha256(path) != digest:
                raise UserError(f"{path}: damaged or missing; {instead}")
        return state

    def load(self, folder: Path, engine: Any) -> None:
        """Bring engine and random state back from a verified checkpoint; every rank calls it."""
        engine.load_checkpoint(str(folder), tag="deepspeed", load_module_strict=False)
        _restore_random_state(torch.load(folder / f"random-{dist.get_rank()}.pt", weights_only=True))

    def _seal(self, partial: Path, final: Path, state: RunState, trainable: dict[str, torch.Tensor]) -> None:
        """Write the rest, hash and sync all, then give the folder its name and the pointer its value."""
        with disk_errors(self.root):
            save_file(trainable, partial / "trainable.safetensors")
            files = sorted(p for p in partial.rglob("*") if p.is_file())
            hashes = {str(p.relative_to(partial)): _sha256(p) for p in files}
            text = json.dumps({"state": asdict(state), "sha256": hashes}, indent=1)
            write_atomic(partial / "state.json", text.encode())
            for path in files:
                _sync(path)
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            _sync(self.root)
            write_atomic(self.root / POINTER, final.name.encode())
            for old in sorted(self.root.glob("step-*[0-9]"))[: -self.keep]:
                if old != final:
                    shutil.rmtree(old)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _random_state() -> dict:
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    version, words, gauss_next = random.getstate()
    state = {
        "torch": torch.get_rng_state(),
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss],
        "python": [version, list(words), gauss_next],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _restore_random_state(state: dict) -> None:
    torch.set_rng_state(state["torch"])
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, words, gauss_next = state["python"]
    random.setstate((version, tuple(words), gauss_next))
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])
