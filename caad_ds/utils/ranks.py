"""What the processes of one launch tell each other: who they are, and how they fail together."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist

from caad_ds.utils.command import is_alone
from caad_ds.utils.errors import RankError, UserError
from caad_ds.utils.progress import waiting

T = TypeVar("T")
LAUNCHER = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
MEETING = timedelta(minutes=15)  # a job's tasks start minutes apart; one that never does must not be waited for
PATIENCE = timedelta(days=7)  # one that has more to do is waited for; one that has ended is then noticed at once
LAST_PORT = 65535
SILENT = nullcontext()


@contextmanager
def joined() -> Iterator[None]:
    """The ranks of this launch as one gloo group, which needs no accelerator; nothing for a process alone.

    For commands that run no DeepSpeed engine. UserError if the launcher's variables are incomplete or no numbers;
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
    """RankError where what is done inside a process group fails because another rank has ended (as gloo tells it)."""
    try:
        yield
    except RuntimeError as error:
        if "gloo" not in str(error):
            raise
        # Its first sentence: advice follows, with a picture in it.
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
        told = f"RANK {rank}, WORLD_SIZE {size}, MASTER_PORT {port}"
        raise UserError(f"{told}: give whole numbers, RANK below WORLD_SIZE and a port of at most {LAST_PORT}")
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
        said = f"caad-ds: SLURM_NTASKS is {tasks}, but WORLD_SIZE is not set: this process does all the work alone"
        print(said, file=sys.stderr, flush=True)


def world() -> tuple[int, int]:
    """(rank, world size); (0, 1) in a process that has joined no other."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def from_main(action: Callable[[], T]) -> T:
    """What `action` gives on rank 0, for all ranks; where it raises UserError, all raise it."""
    rank, world_size = world()
    result = [agreed(lambda: action() if rank == 0 else None)]
    if world_size > 1:
        dist.broadcast_object_list(result, src=0)
    return result[0]  # type: ignore[return-value]


def agreed(action: Callable[[], T], waiting: AbstractContextManager = SILENT) -> T:
    """Run `action` on every rank; if any fails, all do (as `raise_together` says), so that none waits forever.

    `waiting` is entered while the other ranks are not done.
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

    A UserError keeps its type. Of anything else the rank that met it raises it as it is, and the others its name.
    """
    unforeseen = None if isinstance(failure, UserError) else failure
    told = failure if unforeseen is None else UserError(f"{type(failure).__name__}: {failure}")
    failures = gathered(told)
    if unforeseen is not None:
        raise unforeseen
    for rank, error in enumerate(failures):
        if error is not None:
            raise type(error)(str(error) if len(failures) == 1 else f"{error} (rank {rank})") from failure


def gathered(value: T) -> list[T]:
    """What every rank gives, in the order of ranks, on all ranks."""
    values = [value] * world()[1]
    if dist.is_initialized():
        dist.all_gather_object(values, value)
    return values
