"""Ranks: how they start, agree on a failure, and end."""

import gc
import os
import shutil
import socket
import sys
from collections.abc import Callable
from typing import TypeVar

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator

from caad_ds.errors import UserError
from caad_ds.quiet import quiet

T = TypeVar("T")


def is_main() -> bool:
    """Whether this process is the one that prints, tracks and writes."""
    return int(os.environ.get("RANK", "0")) == 0


def start() -> torch.device:
    """Join the process group (alone if no launcher set one up) and return this rank's device."""
    if "RANK" not in os.environ:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    quiet()
    accelerator = get_accelerator()
    if accelerator.device_name() == "cpu":
        _require_compiler()
        # DeepSpeed's launcher sets LOCAL_SIZE; the CPU communication op reads LOCAL_WORLD_SIZE's twin from it too.
        os.environ.setdefault("LOCAL_SIZE", os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
    else:
        accelerator.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    deepspeed.init_distributed(verbose=False)
    return torch.device(accelerator.current_device_name())


def stop() -> None:
    """Leave the process group; without it a finished CPU run can end in SIGABRT."""
    gc.collect()
    if dist.is_initialized():
        dist.destroy_process_group()


def world() -> tuple[int, int]:
    """(rank, world size)."""
    return dist.get_rank(), dist.get_world_size()


def agreed(action: Callable[[], T]) -> T:
    """Run `action` on every rank; if any raises UserError, all raise it (the first rank's), so that none hangs."""
    result, failure = None, None
    try:
        result = action()
    except UserError as error:
        failure = str(error)
    raise_together(failure)
    return result  # type: ignore[return-value]


def raise_together(failure: str | None) -> None:
    """Raise the first rank's failure on all ranks, if there is one."""
    failures: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(failures, failure)
    for rank, message in enumerate(failures):
        if message is not None:
            raise UserError(message if len(failures) == 1 else f"{message} (rank {rank})")


def _require_compiler() -> None:
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None and shutil.which("g++") is None:
        raise UserError(f"no C++ compiler ({compiler}) for DeepSpeed's CPU op; install g++ or set CXX")
    # Ninja stands beside the interpreter in a virtual environment that was not activated.
    os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ.get("PATH", "")
