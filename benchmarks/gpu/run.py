"""Runs stages one after the other, each in its own process group, which is ended with it."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.machine import ROOT, Machine
from benchmarks.gpu.stage import Result, Stage

POLL_SECONDS = 0.1
GRACE_SECONDS = 3  # of the limit, for a stopped stage to clean up: a leftover build lock would block later ones
COMPLAINT = re.compile(r"(Error|Exception|Interrupt)\b|\b(error|failed)\b|^FAILED ", re.IGNORECASE)


def say(*lines: str) -> None:
    """Print lines; a closed stdout is ignored, so that it does not stop the stages."""
    with suppress(OSError):
        print(*lines, sep="\n", flush=True)


class Interrupt:
    """Records the first termination signal; raising in the handler could leave a process or a partial page behind."""

    def __init__(self) -> None:
        self.number = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._note)

    def _note(self, number: int, _: object) -> None:
        self.number = self.number or number

    @property
    def name(self) -> str:
        """Return SIGINT, SIGTERM or SIGHUP."""
        return signal.Signals(self.number).name


@dataclass(frozen=True)
class Runner:
    """Runs stages: on a machine, with an environment, a file for their output and an interrupt.

    `begin` is the latest start of the time budget: a delay before the first stage counts against it.
    """

    machine: Machine
    environment: dict[str, str]
    log: Path
    interrupt: Interrupt
    begin: float

    def results(self, stages: Sequence[Stage]) -> Iterator[Result]:
        """Yield the result of each stage when it is done; a stage may use the time left by earlier ones."""
        end = min(time.monotonic(), self.begin)
        for stage in stages:
            end += stage.seconds
            if self.interrupt.number:
                yield Result(stage, "not run", f"{self.interrupt.name} came before it")
            elif missing := [reason for need in stage.needs if (reason := need(self.machine))]:
                yield Result(stage, "skipped", "; ".join(missing))
            else:
                yield self._run(stage, end - time.monotonic())

    def _run(self, stage: Stage, limit: float) -> Result:
        without = tuple(reason for part in stage.parts if (reason := part(self.machine)))
        say(f"{stage.name}: at most {limit:.0f} s")
        began = time.monotonic()
        with open(self.log, "ab") as log, tempfile.TemporaryDirectory(prefix="caad-ds-gpu-") as work:
            log.write(f"\n# {stage.name}: {' '.join(stage.argv)}\n".encode())
            log.flush()
            start = log.tell()
            process = subprocess.Popen(
                [sys.executable, *stage.argv], cwd=ROOT, env=self.environment | {"TMPDIR": work},
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, process_group=0,
            )  # fmt: skip
            stopped = self._wait(process, began + limit - GRACE_SECONDS)
            _end(process, began + limit)
            output = _plain(self.log.read_bytes()[start:].decode(errors="replace"), work)
        status, reason = self._outcome(process.returncode, stopped, limit, output)
        return Result(stage, status, reason, time.monotonic() - began, limit, output, without)

    def _wait(self, process: subprocess.Popen, end: float) -> bool:
        """Wait until the process ends or the limit is reached; returns whether it had to be stopped."""
        while process.poll() is None:
            if self.interrupt.number or time.monotonic() >= end:
                return True
            with suppress(subprocess.TimeoutExpired):
                process.wait(POLL_SECONDS)
        return False

    def _outcome(self, code: int, stopped: bool, limit: float, output: str) -> tuple[str, str]:
        if stopped and self.interrupt.number:
            return "interrupted", f"{self.interrupt.name} came"
        if stopped:
            return "stopped", f"stopped at its limit of {limit:.0f} s"
        if code == 0:
            return "passed", ""
        status = f"exit status {code}" if code > 0 else f"killed by {signal.Signals(-code).name}"
        return "failed", f"{status}: {complaint(output)}"


def complaint(output: str) -> str:
    """Return the last line that mentions an error, else the last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if COMPLAINT.search(line)), lines[-1] if lines else "no output")


def _end(process: subprocess.Popen, end: float) -> None:
    """Terminate the process if it runs, then kill its group, which may hold children of an ended process."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(min(GRACE_SECONDS, max(0.0, end - time.monotonic())))
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _plain(output: str, work: str) -> str:
    """Return the lines as a terminal finally shows them, without this machine's folders."""
    for folder, name in ((work, "$TMPDIR"), (str(ROOT), "."), (sys.prefix, "$PYTHON"), (str(Path.home()), "~")):
        if len(folder) > 1:
            output = output.replace(folder, name)
    return "\n".join(line.rstrip("\r").rpartition("\r")[2].rstrip() for line in output.split("\n"))
