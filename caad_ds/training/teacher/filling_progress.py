"""How far a training has filled its teacher cache, and when the teacher has nothing left to compute."""

from dataclasses import dataclass
from typing import Self

from caad_ds.data.sampler import Order, ends_epoch
from caad_ds.distill.pairing import Pairing
from caad_ds.distill.teacher_cache.cached_signals import FillingTeacher
from caad_ds.distill.teacher_signal import TeacherSignal
from caad_ds.training.teacher.cache import TeacherCache
from caad_ds.utils.progress import Heartbeat
from caad_ds.utils.ranks import from_main


@dataclass
class FillingProgress:
    """Publishes what the training has stored, and stops the teacher when nothing is missing.

    Until all data has been read once, the keys in the cache do not show that the teacher is not needed: a sample may
    have changed since its key was stored, or be noted as unusable for another student.

    Args:
        epoch: steps of an epoch; None for a stream, whose length is unknown.
        validates: whether there is validation data.
        began: steps done before this start.
        validated: whether all validation data has been read.
    """

    teacher: FillingTeacher
    cache: TeacherCache
    pairing: Pairing
    heartbeat: Heartbeat
    epoch: float | None
    validates: bool
    began: int = 0
    validated: bool = False

    @classmethod
    def of(
        cls,
        teacher: TeacherSignal | None,
        cache: TeacherCache | None,
        pairing: Pairing,
        heartbeat: Heartbeat,
        order: Order | None,
        validates: bool,
    ) -> Self | None:
        """Return the progress of a run whose `teacher` fills a cache; None for another run."""
        if cache is None or not isinstance(teacher, FillingTeacher):
            return None
        epoch = None if order is None else order.steps_per_epoch
        return cls(teacher, cache, pairing, heartbeat, epoch, validates)

    def publish(self, done: int, always: bool = True) -> None:
        """Let all ranks read the states stored in `done` steps; if not `always`, only at an epoch's end.

        In the next epoch, and in a run that resumes there, any rank finds the samples. Every rank calls it.
        """
        ends = self.epoch is not None and ends_epoch(done, self.epoch)
        if not (always or ends) or not self.pairing.teacher_runs:
            return
        self.teacher.publish()
        if self._all_read(done) and self.teacher.writing and not self.cache.lacking():
            from_main(self.cache.finish)
            self.pairing.teacher_runs = False
            self.teacher.read_only()
            self.heartbeat.say(f"teacher.cache: whole ({self.cache.folder}); the teacher runs no more")

    def _all_read(self, done: int) -> bool:
        # What a resumed run had read before it was stopped is stored.
        trained = self.epoch is not None and done // self.epoch > self.began // self.epoch
        return trained and (self.validated or not self.validates)
