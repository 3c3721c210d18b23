"""Checkpoints: atomic folders with hashes of their files, and a pointer to the newest."""

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from caad_ds.config.schema import CheckpointSection
from caad_ds.training.checkpoints import random_state, universal_checkpoint
from caad_ds.training.checkpoints.retention import kept
from caad_ds.training.checks.finite_weights import own_optimizer, require_finite
from caad_ds.training.engines import full_weights
from caad_ds.training.run_identity import Identity
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import disk_errors, file_hash, follow_umask, write_atomic
from caad_ds.utils.progress import Heartbeat
from caad_ds.utils.ranks import agreed, from_main, world
from caad_ds.utils.text import read_text

POINTER = "latest"
STATE = "state.json"
WEIGHTS = "trainable.safetensors"
NAME = re.compile(r"step-(\d{8,})")
BYTES_PER_WEIGHT = 20  # at most: AdamW's two moments and the fp32 master, DeepSpeed's copy and ours
BYTES_BESIDE = 256_000  # headers, random states
REMEDY = "older ones are as they were"


class Damaged(UserError):
    """A checkpoint with missing or changed files; another one may be usable."""


@dataclass(frozen=True)
class RunState:
    """State of a run in a checkpoint; `step`, the number of finished optimizer steps, is also the data position.

    `identity` has the parts of an `Identity`; `frozen` is the hash of the weights that the checkpoint does not hold;
    `validation` the means of a pass at this step; `shards` the number of the shard of a stream that each rank was
    reading; `skipped` the number of steps skipped so far, `skipped_in_row` of them since the last applied step.
    """

    step: int
    world_size: int
    identity: Mapping[str, str]
    tracking_id: str | None
    frozen: str
    validation: Mapping[str, float] = field(default_factory=dict)
    shards: Sequence[int] = ()
    skipped: int = 0
    skipped_in_row: int = 0


class Checkpoints:
    """The checkpoints of one run, under `output_dir/checkpoints`.

    Each is a folder `step-N`: `trainable.safetensors` (gathered), DeepSpeed's shards, the random state of every rank
    and `state.json` with the sha256 of every other file. It is written under a temporary name and renamed once all
    ranks are done; then the pointer is replaced. Hashes are checked before DeepSpeed unpickles anything. While steps
    are skipped none is removed: an earlier checkpoint may be the last that training can resume from.
    """

    def __init__(self, output_dir: Path, section: CheckpointSection, heartbeat: Heartbeat):
        self.root = output_dir / "checkpoints"
        self.section = section
        self.heartbeat = heartbeat

    def newest(self) -> Path | None:
        """Return the newest checkpoint, unverified; None if there is none."""
        return next(iter(self._candidates()), None)

    def find(self, identity: Identity | None = None) -> tuple[Path, RunState] | None:
        """Find the newest intact checkpoint, None if the run has none; every rank calls it.

        Damaged ones are reported and skipped; UserError if none is intact, or if one was made by another run than
        `identity`.
        """
        damage: list[Damaged] = []
        for folder in from_main(self._candidates):
            if damage:
                self.heartbeat.say(f"{damage[-1]}; trying {folder.name}")
            try:
                return folder, agreed(partial(verify, folder, identity))
            except Damaged as error:
                damage.append(error)
        if damage:
            raise UserError(f"{damage[0]}; no older checkpoint is whole: remove {self.root} to start over")
        return None

    def _candidates(self) -> list[Path]:
        """List checkpoints, newest first; those after the pointer are left out: a user may have gone back."""
        folders = sorted((p for p in self.root.glob("step-*") if NAME.fullmatch(p.name)), key=step_of, reverse=True)
        pointer = self.root / POINTER
        named = self.root / read_text(pointer, "replace").strip() if pointer.is_file() else self.root
        if not NAME.fullmatch(named.name):
            return folders
        return [named, *(folder for folder in folders if step_of(folder) < step_of(named))]

    def save(self, engine: Any, state: RunState) -> Path:
        """Write a checkpoint; every rank calls it.

        A full disk raises UserError, weights or optimizer states that are not finite raise NotFinite: the older ones
        are left alone.
        """
        where = f"{self.root}: the checkpoint of step {state.step} is not written"
        agreed(lambda: require_finite(own_optimizer(engine), where, REMEDY))
        agreed(lambda: self._require_space(engine, BYTES_PER_WEIGHT))
        with disk_errors(self.root):
            return self._save(engine, state, where)

    def _require_space(self, engine: Any, bytes_per_weight: int) -> None:
        """Check the disk before any rank writes: a rank that fails midway would leave the others at a barrier."""
        trainable = sum(getattr(p, "ds_numel", p.numel()) for p in engine.module.parameters() if p.requires_grad)
        need = trainable * bytes_per_weight + BYTES_BESIDE
        with disk_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(self.root).free) < need:
            raise UserError(
                f"{self.root}: no space for a checkpoint, {need / 1e6:.1f} MB needed, {free / 1e6:.1f} MB free; "
                "free some or use another run.output_dir"
            )

    def _save(self, engine: Any, state: RunState, where: str) -> Path:
        final = self.root / f"step-{state.step:08d}"
        partial = final.with_suffix(".partial")
        agreed(lambda: self._make(partial) if dist.get_rank() == 0 else None)
        engine.save_checkpoint(
            str(partial), tag=universal_checkpoint.TAG, save_latest=False, exclude_frozen_parameters=True
        )
        trainable = full_weights(engine, trainable_only=True)
        agreed(lambda: require_finite(trainable.items(), where, REMEDY))
        agreed(lambda: self._write_random(partial))
        agreed(lambda: self._seal(partial, final, state, trainable) if dist.get_rank() == 0 else None)
        return final

    def _make(self, partial: Path) -> None:
        with disk_errors(self.root):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)

    def _write_random(self, partial: Path) -> None:
        with disk_errors(self.root):
            torch.save(random_state.random_state(), partial / f"random-{dist.get_rank()}.pt")

    def _seal(self, partial: Path, final: Path, state: RunState, trainable: dict[str, torch.Tensor]) -> None:
        """Write the remaining files, hash and sync all, then rename the folder and update the pointer."""
        with disk_errors(self.root):
            save_file(trainable, partial / WEIGHTS)
            follow_umask(partial)
            files = sorted(p for p in partial.rglob("*") if p.is_file())
            hashes = {str(p.relative_to(partial)): file_hash(p) for p in files}
            text = json.dumps({"state": asdict(state), "sha256": hashes}, indent=1)
            write_atomic(partial / STATE, text.encode())
            for path in [*files, partial / universal_checkpoint.TAG, partial]:
                _sync(path)
            if final.exists():  # damaged, or of steps that are repeated
                self._remove(final)
            partial.rename(final)
            _sync(self.root)
            write_atomic(self.root / POINTER, final.name.encode())
            if not state.skipped_in_row:
                self._prune(state.step)

    def last_applied(self) -> Path | None:
        """Return the newest checkpoint whose last step was applied, None if there is none."""
        return next((folder for folder in self._candidates() if not _recorded(folder).get("skipped_in_row")), None)

    def _prune(self, newest: int) -> None:
        """Remove the checkpoints up to `newest` that are not kept, and what killed ranks have left."""
        folders = {step_of(path): path for path in self.root.glob("step-*") if NAME.fullmatch(path.name)}
        steps = {step: _validation(folder) for step, folder in folders.items() if step <= newest}
        for step in steps.keys() - kept(self.section, steps):
            self._remove(folders[step])
        for left in self.root.glob("*.partial"):
            shutil.rmtree(left, ignore_errors=True)

    def _remove(self, folder: Path) -> None:
        """Rename, then delete: a half-deleted checkpoint must not look intact."""
        away = folder.with_suffix(".old.partial")
        shutil.rmtree(away, ignore_errors=True)
        folder.rename(away)
        shutil.rmtree(away)

    def load(self, folder: Path, state: RunState, engine: Any, seed: int) -> None:
        """Restore engine and random state from a verified checkpoint; every rank calls it."""
        rank, world_size = world()
        if state.world_size == world_size or not engine.zero_optimization():
            universal_checkpoint.load_shards(folder, engine)
        else:
            self._load_universal(folder, state, engine)
        if state.world_size == world_size:
            random_state.restore(torch.load(folder / f"random-{rank}.pt", weights_only=True))
        else:  # a new rank has no state: all ranks are seeded, the same way whenever they resume here
            random_state.seed_rank(seed, state.step, rank)

    def _load_universal(self, folder: Path, state: RunState, engine: Any) -> None:
        """Convert, load and remove; hashes do not cover the converted files, so they are never reused."""
        rank, world_size = world()
        if engine.zero_nvme_offload_optimizer():
            raise UserError(
                f"{folder}: made by {state.world_size} ranks, resumed by {world_size}, which an optimizer on NVMe "
                f"cannot; start {state.world_size} ranks"
            )
        self.heartbeat.begin(f"converting {folder.name} of {state.world_size} ranks for {world_size}")
        agreed(lambda: self._require_space(engine, universal_checkpoint.BYTES_PER_WEIGHT))
        converted = self.root / "universal.partial"
        agreed(lambda: universal_checkpoint.convert(folder, converted) if rank == 0 else None)
        universal_checkpoint.load(converted, engine)
        dist.barrier()
        if rank == 0:
            shutil.rmtree(converted)


def step_of(folder: Path) -> int:
    """Return the step of a folder `step-N`."""
    return int(folder.name.removeprefix("step-"))


def verify(folder: Path, identity: Identity | None = None) -> RunState:
    """Verify this rank's share of a checkpoint's files, and return the state of the run.

    Damaged names the file that is missing or changed; UserError if another run than `identity` (where given) made the
    checkpoint.
    """
    path = folder / STATE
    try:
        recorded = json.loads(read_text(path))
        state, hashes = RunState(**recorded["state"]), sorted(recorded["sha256"].items())
        stored = dict(state.identity)
    except OSError as error:
        raise Damaged(f"{path}: damaged or missing ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{path}: damaged ({error})") from error
    if identity is not None:
        identity.check(stored, folder)
    rank, world_size = world()
    for name, digest in hashes[rank::world_size]:
        path = folder / name
        try:
            whole = file_hash(path) == digest
        except OSError:
            whole = False
        if not whole:
            raise Damaged(f"{path}: damaged or missing")
    return state


def _validation(folder: Path) -> dict[str, float]:
    """Return a checkpoint's validation means; none for a damaged one, which is then never the best."""
    return _recorded(folder).get("validation", {})


def _recorded(folder: Path) -> dict[str, Any]:
    """Read a checkpoint's state of the run without verifying it; empty for a damaged one."""
    try:
        return dict(json.loads(read_text(folder / STATE))["state"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
