"""Start and stop the ranks of a training run."""

import fcntl
import gc
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from io import FileIO
from pathlib import Path

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from deepspeed.comm.torch import build_shm_op
from torch.utils.cpp_extension import get_default_build_root

from caad_ds.utils.errors import RankError, UserError
from caad_ds.utils.progress import Heartbeat
from caad_ds.utils.text import read_text

CPU_OP = "deepspeed_shm_comm"
STALE_SECONDS = 600  # no build of the op takes so long
_added: set[str] = set()  # launch variables that this process has set itself


def start(heartbeat: Heartbeat) -> torch.device:
    """Join the process group (of one rank without a launcher) and return this rank's device.

    UserError if DeepSpeed's CPU op cannot be compiled, or would wait for a build that was killed. The ranks have not
    met by then: RankError on the first rank of each node, since the main rank knows only its own node.
    """
    try:
        return _start(heartbeat)
    except UserError as error:
        if os.environ.get("LOCAL_RANK", "0") != "0":
            raise
        raise RankError(str(error)) from error


def _start(heartbeat: Heartbeat) -> torch.device:
    if "RANK" not in os.environ:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        _add(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    accelerator, compiles = get_accelerator(), ""
    if accelerator.device_name() == "cuda" and not torch.cuda.is_available():
        raise UserError("DS_ACCELERATOR=cuda, but PyTorch finds no CUDA device here; unset it, or set it to cpu")
    if accelerator.device_name() == "cpu":
        _require_compiler()
        compiles = _compiles()
        begins = "joining the ranks" if os.environ["WORLD_SIZE"] != "1" else "starting DeepSpeed"
        heartbeat.begin(begins + compiles)
        # DeepSpeed's launcher sets LOCAL_SIZE, which its CPU communication op reads too.
        if "LOCAL_SIZE" not in os.environ:
            _add(LOCAL_SIZE=os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
    else:
        local, devices = int(os.environ.get("LOCAL_RANK", "0")), accelerator.device_count()
        if local >= devices:
            raise RankError(  # never the main one
                f"local rank {local} has no device of its own, there are {devices}; start one rank per device, "
                "or set DS_ACCELERATOR=cpu"
            )
        accelerator.set_device(local)
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):  # DeepSpeed prints that the op was built
            if accelerator.device_name() == "cpu":
                with _in_turn():
                    build_shm_op()  # loads the op into this process if it is built
            deepspeed.init_distributed(verbose=False)
    except dist.DistNetworkError as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        reason = str(error).splitlines()[0]
        raise UserError(
            f"ranks cannot meet at {where} ({reason}); if another run holds it, use --master_port"
        ) from error
    except (subprocess.CalledProcessError, RuntimeError, ImportError, OSError) as error:
        if not compiles:
            raise
        raise UserError(
            f"DeepSpeed's CPU op cannot be compiled with {_compiler()} ({_why(error)}); fix that compiler, or set CXX "
            "to another, then run it again"
        ) from error
    return torch.device(accelerator.current_device_name())


def stop() -> None:
    """Leave the process group; remove its shared memory and this process's launch variables.

    Without it a finished CPU run can end in SIGABRT.
    """
    gc.collect()
    if dist.is_initialized():
        rank = dist.get_rank()
        deepspeed.comm.destroy_process_group()  # also DeepSpeed's state of it, for another group in this process
        # DeepSpeed's CPU op leaves 66 MiB of shared memory behind for every port.
        address, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
        Path(f"/dev/shm/deepspeed_allreduce_buffer_{os.getuid()}_{address}_{port}_{rank}").unlink(missing_ok=True)
    while _added:  # else a process started later, even a Slurm job, believes to be a rank of this launch
        os.environ.pop(_added.pop(), None)


def _add(**variables: str) -> None:
    os.environ.update(variables)
    _added.update(variables)


@contextmanager
def _in_turn() -> Iterator[None]:
    """Let ranks build DeepSpeed's CPU op one after the other, if the file system supports locks.

    Torch also locks the build, but ranks that wait for its lock do not learn why the build fails, and wait forever if
    the builder was killed: our lock file records that.
    """
    with _open_lock() as lock:
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
            lock.seek(0)
            if lock.read():
                for left in _torch_locks():
                    left.unlink(missing_ok=True)
            lock.write(b"in turn\n")
        _refuse_stale_lock()
        try:
            yield
        finally:
            lock.truncate(0)


def _open_lock() -> FileIO:
    root = _build_root()
    try:
        root.mkdir(parents=True, exist_ok=True)
        return open(root / ".caad-ds.lock", "a+b", buffering=0)  # a full disk must not raise again on close
    except OSError as error:
        raise UserError(
            f"{root} cannot be written ({error.strerror}), where DeepSpeed's CPU op is kept; "
            "set TORCH_EXTENSIONS_DIR to another folder"
        ) from error


def _refuse_stale_lock() -> None:
    """Raise UserError if another process's build was killed: torch would wait for its lock forever, silently."""
    for lock in _torch_locks():
        if lock.exists() and (minutes := (time.time() - lock.stat().st_mtime) / 60) > STALE_SECONDS / 60:
            raise UserError(f"{lock}: left {minutes:.0f} minutes ago by a build that was killed; remove that file")


def _torch_locks() -> list[Path]:
    """Return possible paths of torch's lock for the op."""
    return [folder / "lock" for folder in _op_folders()]


def _op_folders() -> list[Path]:
    root = _build_root()
    python = f"py{sys.version_info.major}{sys.version_info.minor}"
    return [root / CPU_OP, *root.glob(f"{python}_*/{CPU_OP}")]


def _build_root() -> Path:
    return Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())


def _compiler() -> str:
    return os.environ.get("CXX") or "c++"


def _why(error: Exception) -> str:
    """Return the compiler's first error line, else the error in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return next((line for line in lines if "error" in line.lower() and "Error building" not in line), lines[0])


def _require_compiler() -> None:
    """Raise UserError if there is no compiler for DeepSpeed's CPU op."""
    if shutil.which(_compiler().split()[0]) is None:
        raise UserError(
            f"no C++ compiler ({_compiler()}) for DeepSpeed's CPU op; install g++, or set CXX to a compiler"
        )
    # Ninja is beside the interpreter in a virtual environment that was not activated.
    os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ.get("PATH", "")


def _compiles() -> str:
    """Return what the start says if the op must be compiled, else ""."""
    built = [folder for folder in _op_folders() if any(library.is_file() for library in folder.glob("*.so"))]
    if not built:
        return ", compiling DeepSpeed's CPU op once: up to 2 minutes"
    if all(map(_of_another_environment, built)):
        # Two environments that share a folder compile it again and again, each waiting for the other.
        return (
            f", compiling DeepSpeed's CPU op: another environment's is in {_build_root()} (give each a "
            "TORCH_EXTENSIONS_DIR of its own): up to 2 minutes"
        )
    return ""


def _of_another_environment(folder: Path) -> bool:
    """Return whether the op was built against another installation of DeepSpeed, for which torch builds it again."""
    commands = folder / "build.ninja"
    return commands.is_file() and f"{Path(deepspeed.__file__).parent}/" not in read_text(commands)
