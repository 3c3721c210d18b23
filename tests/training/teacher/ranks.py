"""What is put into the ranks of a run before it trains (`prepare` of `launching.Run`)."""

import os
import signal
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from caad_ds.distill.step import DistillStep
from caad_ds.distill.teacher_cache import segments
from caad_ds.distill.teacher_signal import OnlineTeacher
from tests.training.teacher.in_process import batch_dependent


def note_losses() -> None:
    """Add kd and ce of each micro-batch to a file of this rank beside LOSSES."""
    train = DistillStep.train
    file = Path(f"{os.environ['LOSSES']}.{os.environ['RANK']}")

    def noted(self, batches, normalizer, step):
        terms = train(self, batches, normalizer, step)
        with file.open("a") as out:
            out.writelines(f"{float(kd)!r} {float(ce)!r}\n" for kd, ce, _ in terms)
        return terms

    DistillStep.train = noted


def die_in_writing() -> None:
    """Make states depend on the batch; kill the rank DIES inside the write, or before the index, of the AT-th sample or
    segment that it stores."""
    batch_dependent()
    if os.environ.get("DIES") != os.environ["RANK"]:
        return
    where, _, number = os.environ["AT"].partition(":")
    left = [int(number)]

    def dies() -> bool:
        left[0] -= 1
        return left[0] < 0

    if where == "rows":
        write = os.pwrite

        def cut(file, data, place):
            if dies():
                write(file, data[: len(data) // 2], place)
                os.kill(os.getpid(), signal.SIGKILL)
            return write(file, data, place)

        os.pwrite = cut
    else:
        index = segments.write_index

        def without(*args):
            if dies():
                os.kill(os.getpid(), signal.SIGKILL)
            index(*args)

        segments.write_index = without


def blind() -> None:
    """Let rank BLIND see no file of the cache."""
    if os.environ["BLIND"] == os.environ["RANK"]:
        Path.is_file = lambda self, real=Path.is_file: self.suffix != ".rows" and real(self)


def wait_in_writing() -> None:
    """Say when the first rows are to be written, and wait until the file UNTIL is there."""
    write = os.pwrite

    def waits(file, data, place):
        if not Path(os.environ["UNTIL"]).exists():
            print("writing begins", flush=True)
        while not Path(os.environ["UNTIL"]).exists():
            time.sleep(0.05)
        return write(file, data, place)

    os.pwrite = waits


def soft_cap() -> None:
    """Give the teacher's head a soft cap."""
    head = OnlineTeacher.head

    @contextmanager
    def capped(self):
        with head(self) as own:
            yield replace(own, softcap=30.0)

    OnlineTeacher.head = capped


def full_on_one() -> None:
    """Let the disk of rank FULL be full from the third write on; of its segments' names with FULL_IN_PUBLISH."""
    if os.environ["FULL"] != os.environ["RANK"]:
        return
    left = [3]

    def full(*_):
        raise OSError(28, "No space left on device")

    if os.environ.get("FULL_IN_PUBLISH"):
        os.fsync = full
        return
    write = os.pwrite

    def few(file, data, place):
        left[0] -= 1
        return write(file, data, place) if left[0] >= 0 else full()

    os.pwrite = few
