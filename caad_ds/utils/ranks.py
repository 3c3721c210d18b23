"""Communication between the processes of a launch: ranks, shared results and shared failures."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist

from caad_ds.utils.errors import RankError, UserError
from caad_ds.utils.launch import is_alone
from caad_ds.utils.progress import waiting

T = TypeVar("T")
LAUNCHER = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
MEETING = timedelta(minutes=15)  # a job's tasks start minutes apart; do not wait forever for one that never starts
PATIENCE = timedelta(days=7)  # wait for a rank with more work; one that has ended is noticed at once
LAST_PORT = 65535
SILENT = nullcontext()


@contextmanager
def joined() -> Iterator[None]:
    """Join the ranks of this launch to a gloo group, which needs no accelerator; do nothing for a single process.

    For commands without DeepSpeed engines. UserError if the launcher's variables are incomplete or not numbers;
    RankError if the ranks do not meet, or one of them ends before the others.
    """
    if is_alone():
        _warn_of_tasks()
        yield
        return
    _meet()
    try:
        with noticed():
            yield
    finally:
        dist.destroy_process_group()


@contextmanager
def noticed() -> Iterator[None]:
    """Raise RankError if the body fails because another rank has ended, as gloo reports."""
    try:
        yield
    except RuntimeError as error:
        if "gloo" not in str(error):
            raise
        # Only its first sentence: advice follows.
        reason = str(error).splitlines()[0].split("] ", 1)[-1].split(". ")[0]
        raise RankError(
            f"rank {dist.get_rank()}: another rank has ended ({reason}); see what it said, and start the command again"
        ) from error


def _meet() -> None:
    missing = [name for name in LAUNCHER if name not in os.environ]
    if missing:
        raise UserError(f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but {', '.join(missing)} not set; set them as well")
    rank, size, address, port = (os.environ[name] for name in LAUNCHER)
    numbers = rank.isdecimal() and size.isdecimal() and port.isdecimal()
    if not numbers or int(rank) >= int(size) or int(port) > LAST_PORT:
        variables = f"RANK {rank}, WORLD_SIZE {size}, MASTER_PORT {port}"
        raise UserError(f"{variables}: give whole numbers, RANK below WORLD_SIZE and a port of at most {LAST_PORT}")
    where = f"{address}:{port}"
    try:
        with waiting(f"rank {rank}: waiting for {size} ranks to meet at {where}"):
            store, *_ = next(dist.rendezvous("env://", timeout=MEETING))
            dist.init_process_group("gloo", store=store, rank=int(rank), world_size=int(size), timeout=PATIENCE)
    except dist.DistError as error:
        raise RankError(
            f"rank {rank}: the {size} ranks do not meet at {where} ({str(error).splitlines()[0]}); "
            "start all of them, or take another MASTER_PORT"
        ) from error


def _warn_of_tasks() -> None:
    tasks = os.environ.get("SLURM_NTASKS", "1")
    if tasks != "1" and "WORLD_SIZE" not in os.environ:
        message = f"caad-ds: SLURM_NTASKS is {tasks}, but WORLD_SIZE is not set: this process does all the work alone"
        print(message, file=sys.stderr, flush=True)


def world() -> tuple[int, int]:
    """Return (rank, world size); (0, 1) in a process without a group."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def from_main(action: Callable[[], T]) -> T:
    """Run `action` on rank 0, and return its result on all ranks; if it raises UserError, all raise it."""
    rank, world_size = world()
    result = [agreed(lambda: action() if rank == 0 else None)]
    if world_size > 1:
        dist.broadcast_object_list(result, src=0)
    return result[0]  # type: ignore[return-value]


def agreed(action: Callable[[], T], waiting: AbstractContextManager = SILENT) -> T:
    """Run `action` on every rank; if any fails, all do (see `raise_together`), and none waits forever.

    `waiting` is entered while other ranks are not done.
    """
    result, failure = None, None
    try:
        result = action()
    except Exception as error:
        failure = error
    with waiting:
        raise_together(failure)
    return result  # type: ignore[return-value]


def raise_together(failure: Exception | None) -> None:
    """Raise the first rank's failure on all ranks, if there is one.

    A UserError keeps its type. Another error is raised unchanged by its rank, and as a UserError by the others.
    """
    unforeseen = None if isinstance(failure, UserError) else failure
    shared = failure if unforeseen is None else UserError(f"{type(failure).__name__}: {failure}")
    failures = gathered(shared)
    if unforeseen is not None:
        raise unforeseen
    for rank, error in enumerate(failures):
        if error is not None:
            raise type(error)(str(error) if len(failures) == 1 else f"{error} (rank {rank})") from failure


def gathered(value: T) -> list[T]:
    """Gather a value of every rank, in the order of ranks, on all ranks."""
    values = [value] * world()[1]
    if dist.is_initialized():
        dist.all_gather_object(values, value)
    return values
