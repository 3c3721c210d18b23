"""Stages one after the other, each in a process group that ends with it."""

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
GRACE_SECONDS = 3  # of its limit, in which a stage that must end may clean up: a build's lock would block later ones
COMPLAINT = re.compile(r"(Error|Exception|Interrupt)\b|\b(error|failed)\b|^FAILED ", re.IGNORECASE)


def say(*lines: str) -> None:
    """Print lines, or none where nobody reads them any more: the stages are worth more than that."""
    with suppress(OSError):
        print(*lines, sep="\n", flush=True)


class Interrupt:
    """Notes the first signal that asks to end; a handler that raised could leave a process behind, or half a page."""

    def __init__(self) -> None:
        self.number = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._note)

    def _note(self, number: int, _: object) -> None:
        self.number = self.number or number

    @property
    def name(self) -> str:
        """SIGINT, SIGTERM or SIGHUP."""
        return signal.Signals(self.number).name


@dataclass(frozen=True)
class Runner:
    """Where stages run: what is there, their environment, the file that takes what they print, who may end them.

    `begin` is when their seconds are counted from at the latest: the first one pays for what took long before it.
    """

    machine: Machine
    environment: dict[str, str]
    log: Path
    interrupt: Interrupt
    begin: float

    def results(self, stages: Sequence[Stage]) -> Iterator[Result]:
        """Each stage's result, when it has one; a stage may use what those before it have left of their seconds."""
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
        """Until the process ends, or must: whether it had to be stopped."""
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
    """The last line that speaks of an error, else the last one."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if COMPLAINT.search(line)), lines[-1] if lines else "no output")


def _end(process: subprocess.Popen, end: float) -> None:
    """Ask the process to end where it has not, then kill its group: children may be left where it has ended itself."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(min(GRACE_SECONDS, max(0.0, end - time.monotonic())))
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _plain(output: str, work: str) -> str:
    """Lines as a terminal shows them in the end, without this machine's folders."""
    for folder, name in ((work, "$TMPDIR"), (str(ROOT), "."), (sys.prefix, "$PYTHON"), (str(Path.home()), "~")):
        if len(folder) > 1:
            output = output.replace(folder, name)
    return "\n".join(line.rstrip("\r").rpartition("\r")[2].rstrip() for line in output.split("\n"))
