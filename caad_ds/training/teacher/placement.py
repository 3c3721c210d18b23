"""Choose where the frozen teacher's weights are: on each device, partitioned, in host memory, or on NVMe."""

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from torch import nn

from caad_ds.config.deepspeed_settings import deepspeed_config, offloaded
from caad_ds.config.schema import Config
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import disk_errors

GATHERED = 1_000_000_000  # weights that ZeRO-3 gathers at a time, stage3_max_live_parameters of ds_configs/
OPTIMIZER_BYTES = 16  # per trained weight: fp32 master, gradient and AdamW's two moments
FOR_ACTIVATIONS = 0.25  # share of the free memory reserved for activations, the loss's logits and fragmentation
FOR_THE_HOST = 0.2  # share of the free host memory reserved for the data and the rest of the machine


@dataclass(frozen=True)
class Memory:
    """Memory that the choice depends on, in bytes per rank; free memory is the least over all ranks.

    `whole`: the teacher's weights. `teacher`: this rank's share of them. `gathered`: what ZeRO-3 gathers of them at a
    time. `student`: its weights, gradients and optimizer. `host_free`: the rank's share of its node's free memory.
    """

    whole: int
    teacher: int
    gathered: int
    student: int
    device_free: int
    host_free: int


def choose(memory: Memory, nvme: bool) -> tuple[str, str]:
    """Return the fastest placement that fits, and the reason in words; UserError if none does.

    `nvme`: whether a folder for it was given.
    """
    usable = memory.device_free * (1 - FOR_ACTIVATIONS)
    room = f"{_gb(memory.device_free)} GB are free on the fullest device, of which a quarter is left to activations"
    for placed, teacher in (("replicated", memory.whole), ("resident", memory.teacher + memory.gathered)):
        need = teacher + memory.student
        if need <= usable:
            return placed, f"teacher and student take {_gb(need)} GB per rank; {room}"
    if memory.gathered + memory.student > usable:
        need = memory.gathered + memory.student
        raise UserError(
            f"even without the teacher's weights a rank needs {_gb(need)} GB, but {room}; use more ranks "
            "(of a plan: --gpus-per-node), student.deepspeed student_24gb.json, or a smaller student"
        )
    why = f"teacher and student would take {_gb(need)} GB per rank and {room}"
    if memory.teacher <= memory.host_free * (1 - FOR_THE_HOST):
        return "cpu", why
    why += f"; its share of {_gb(memory.teacher)} GB does not fit into {_gb(memory.host_free)} GB of the host either"
    if nvme:
        return "nvme", why
    raise UserError(f"no place for the teacher: {why}; set teacher.nvme_path, or use more ranks")


def placement(cfg: Config, teacher: nn.Module, student: nn.Module, width: int) -> tuple[str, str]:
    """Return the placement of this run and its reason, the same on every rank; `width`: bytes per weight."""
    assert cfg.teacher is not None
    if cfg.teacher.deepspeed is not None:
        return placed_by(cfg.teacher.deepspeed), f"as {cfg.teacher.deepspeed} says"
    if cfg.teacher.placement != "auto":
        return cfg.teacher.placement, "as teacher.placement says"
    if get_accelerator().device_name() == "cpu":
        return "resident", "the device's memory is the host's"
    return choose(_measure(teacher, student, width, cfg), cfg.teacher.nvme_path is not None)


def placed_by(file: str) -> str:
    """Return where a DeepSpeed file puts the weights."""
    zero = deepspeed_config(file).get("zero_optimization", {})
    if zero.get("stage", 0) == 0:
        return "replicated"
    return offloaded(zero, "param") or "resident"


def swap_folder(root: Path | None, output_dir: Path) -> Path:
    """Make an empty folder of this run and rank below `root` for weights on NVMe; UserError if it cannot be used.

    Its name is the same on every start of the run, which removes what a killed rank has left.
    """
    if root is None:
        raise UserError("the teacher lies on nvme, but teacher.nvme_path is missing; give a folder on a local disk")
    operator = get_accelerator().create_op_builder("AsyncIOBuilder")
    if operator is None or not operator.is_compatible(verbose=False):
        raise UserError("placement nvme needs libaio (Debian: libaio-dev) to compile DeepSpeed's operator; install it")
    with disk_errors(root):
        run = hashlib.sha256(str(output_dir.resolve()).encode()).hexdigest()[:12]
        folder = root / f"caad-ds-{run}-{dist.get_rank()}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder


def _measure(teacher: nn.Module, student: nn.Module, width: int, cfg: Config) -> Memory:
    ranks = dist.get_world_size()
    local = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or torch.cuda.device_count())
    free = torch.tensor([_device_free(), psutil.virtual_memory().available // min(ranks, local)])
    free = free.to(get_accelerator().current_device_name())
    dist.all_reduce(free, op=dist.ReduceOp.MIN)
    device_free, host_free = free.tolist()
    counts = _count(teacher), _count(student), _count(student, trained=True)
    return memory_of(cfg, counts, width, ranks, device_free, host_free)


def memory_of(
    cfg: Config, counts: tuple[int, int, int], width: int, ranks: int, device_free: int, host_free: int
) -> Memory:
    """Compute the memory, by `counts` of weights: the teacher's, the student's, and the trainable ones."""
    teacher, student, trained = counts
    zero = deepspeed_config(cfg.student.deepspeed).get("zero_optimization", {})
    weights = student * width // (ranks if zero.get("stage") == 3 else 1)
    if zero.get("stage") == 3 and offloaded(zero, "param") is not None:
        weights = min(GATHERED, student) * width  # those that are gathered at a time
    if cfg.objective.draws and zero.get("stage") == 3:
        weights += student * width  # gathered while it draws answers
    optimizer = 0 if offloaded(zero, "optimizer") else trained * OPTIMIZER_BYTES // ranks
    whole = teacher * width
    gathered = min(GATHERED * width, whole)
    return Memory(whole, whole // ranks, gathered, weights + optimizer, device_free, host_free)


def _device_free() -> int:
    """Return the bytes that this process may still allocate; PyTorch's per-process limit may be below what is free."""
    free, total = torch.cuda.mem_get_info()
    limit = int(total * torch.cuda.get_per_process_memory_fraction()) - torch.cuda.memory_reserved()
    return min(free, limit)


def _count(model: nn.Module, trained: bool = False) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trained)


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f}"
