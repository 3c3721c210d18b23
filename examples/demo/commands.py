"""Runs the `caad-ds` commands of the demo, and prints them."""

import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

from caad_ds.utils.command import INTERRUPTED, guarded, note
from caad_ds.utils.errors import UserError
from caad_ds.utils.formatting import counted
from caad_ds.utils.progress import Heartbeat

ROOT = Path(__file__).parents[2]
CAAD_DS = [sys.executable, "-u", "-m", "caad_ds.cli"]
GRACE = 10.0  # seconds that interrupted commands have to end
_RUNNING: set[subprocess.Popen] = set()
_ENDED = threading.Event()  # no further command starts


def resumable(command: Callable[[], int], debug: bool = False) -> int:
    """Run as `guarded`; Ctrl-C, SIGTERM and a closed terminal end the running commands too, with a line on resuming."""
    for sign in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(sign) is not signal.SIG_IGN:  # as under nohup
            signal.signal(sign, signal.default_int_handler)
    _ENDED.clear()
    status = guarded(command, debug)
    if status == INTERRUPTED:
        note("interrupted; run the same command again to resume")
    return status


def caad_ds(*arguments: object) -> None:
    """Run `caad-ds ARGUMENTS`; exit with its status if it fails."""
    texts = [str(a) for a in arguments]
    _shown("caad-ds", [*CAAD_DS, *texts], texts)


@dataclass(frozen=True)
class Job:
    """A training run and the evaluations of its model."""

    config: str
    overrides: tuple[str, ...]
    output_dir: Path
    evaluations: tuple[tuple[str, ...], ...] = field(default=())

    @property
    def sets(self) -> list[str]:
        """Return the overrides as arguments."""
        return [part for override in self.overrides for part in ("--set", override)]

    def run(self, ranks: int = 2) -> None:
        """Train under DeepSpeed's launcher on `ranks` local processes, then evaluate; all output is shown."""
        # The launcher's INFO lines only repeat the command.
        launcher = [sys.executable, "-u", "-m", "deepspeed.launcher.runner", "--log_level", "error"]
        # A free port, so that two demos on one machine do not interfere.
        ranks_and_port = ["--num_accelerators", str(ranks), "--master_port", str(free_port())]
        arguments = [*ranks_and_port, "caad_ds/train.py", "--config", self.config, *self.sets]
        _shown("deepspeed", [*launcher, *arguments], arguments)
        for evaluation in self.evaluations:
            caad_ds("evaluate", *evaluation)

    def run_quietly(self) -> Path:
        """Train and evaluate in one process, with the output in a log file; for parallel jobs."""
        log = beside(self.output_dir, ".log")
        # A separate MLflow store: SQLite allows one writer at a time.
        sets = [*self.sets, "--set", f"tracking.uri=sqlite:///{self.output_dir}.db"]
        commands = (["train", "--config", self.config, *sets], *(["evaluate", *e] for e in self.evaluations))
        _logged(log, *commands)
        return log


@dataclass(frozen=True)
class CacheJob:
    """Filling of a teacher cache before parallel runs read it: only one process may fill it at a time."""

    config: str
    overrides: tuple[str, ...]
    folder: Path

    def run_quietly(self) -> Path:
        """Fill the cache in one process, with the output in a log file; a complete one is left alone."""
        log, whole = beside(self.folder, ".log"), beside(self.folder, ".whole")
        if not (whole.exists() and self.folder.is_dir()):
            sets = [part for override in self.overrides for part in ("--set", override)]
            cache = ["--set", f"teacher.cache.path={self.folder}", "--batch", "64"]
            _logged(log, ["cache-teacher", "--config", self.config, *sets, *cache])
            whole.touch()
        return log


@dataclass(frozen=True)
class Evaluations:
    """Evaluations of an existing model; the log is named after a folder and written beside it."""

    arguments: Sequence[tuple[str, ...]]
    folder: Path

    def run_quietly(self) -> Path:
        """Run the evaluations one after the other, with the output in a log file."""
        log = beside(self.folder, ".log")
        _logged(log, *(["evaluate", *each] for each in self.arguments))
        return log


class Quiet(Protocol):
    """A job that can run in parallel with others."""

    def run_quietly(self) -> Path:
        """Run to the end; returns the log."""
        ...


def beside(folder: Path, ending: str) -> Path:
    """Return the path `FOLDER` + `ending`; the folder's name may contain dots."""
    return folder.with_name(folder.name + ending)


def _logged(log: Path, *commands: list[str]) -> None:
    """Run `caad-ds` with each list of arguments, all output to one file; UserError if one fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w") as out:
        for arguments in commands:
            if status := _run([*CAAD_DS, *arguments], out):
                raise UserError(f"caad-ds {shlex.join(arguments)} ended with status {status}; see {log}")


def run_all(jobs: Sequence[Quiet], side_by_side: int, what: str) -> None:
    """Run jobs, `side_by_side` at a time; print a line for each finished one."""
    with ThreadPoolExecutor(side_by_side) as pool, Heartbeat() as voice, ended_with(pool):
        voice.begin(f"{what}: {counted(len(jobs), 'run')}, {side_by_side} at a time")
        waiting = [pool.submit(job.run_quietly) for job in jobs]
        try:
            for done, future in enumerate(as_completed(waiting), 1):
                voice.say(f"{what}: {done}/{len(jobs)} done ({future.result()})")
        except UserError:
            pool.shutdown(cancel_futures=True)  # waits for running jobs
            raise


@contextmanager
def ended_with(pool: ThreadPoolExecutor) -> Iterator[None]:
    """End the commands that a pool runs, and start none that waits in it, if this process is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        pool.shutdown(wait=False, cancel_futures=True)
        _end_running()
        raise


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment() -> dict[str, str]:
    """Return the environment of the commands: the checkout importable, CPU, one thread per process.

    The user's own settings take precedence. CPU, since two ranks need two devices and a machine may have one GPU only.
    """
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    defaults = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    return defaults | os.environ | {"PYTHONPATH": paths, "MLFLOW_DISABLE_TELEMETRY": "true"}


def _shown(name: str, command: list[str], arguments: list[str]) -> None:
    print(f"$ {shlex.join([name, *arguments])}", flush=True)
    if status := _run(command):
        sys.exit(status)


def _run(command: list[str], out: IO[str] | None = None) -> int:
    """Run a command in a process group of its own, with all output to `out`; returns its status."""
    if _ENDED.is_set():
        raise KeyboardInterrupt
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=out, stderr=out, process_group=0) as child:
        _RUNNING.add(child)
        try:
            return child.wait()
        except KeyboardInterrupt:
            _end_running()
            raise
        finally:
            _RUNNING.remove(child)


def _end_running() -> None:
    """End the process groups of all running commands and wait for them: a launcher may end before its ranks."""
    _ENDED.set()
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, signal.SIG_IGN)  # this takes seconds, and a second Ctrl-C would leave some running
    living = list(_RUNNING)
    for sign in (signal.SIGTERM, signal.SIGKILL):
        for child in living:
            _signalled(child, sign)
        end = time.monotonic() + GRACE
        while (living := [child for child in living if _signalled(child, 0)]) and time.monotonic() < end:
            time.sleep(0.05)


def _signalled(child: subprocess.Popen, sign: int) -> bool:
    """Send a signal to a command's process group; returns whether there is one."""
    child.poll()  # else an ended child would count
    try:
        os.killpg(child.pid, sign)
    except ProcessLookupError:
        return False
    return True
