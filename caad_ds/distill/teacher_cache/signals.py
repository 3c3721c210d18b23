"""The teacher's states from a cache: read alone, or computed where rows are missing and then stored."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from caad_ds.config.schema import ObjectiveSection
from caad_ds.data.batch import IGNORE, Batch, PairedBatch
from caad_ds.data.stored_states import StoredStates
from caad_ds.distill.signal import OnlineTeacher, TeacherStates
from caad_ds.distill.teacher_cache.segments import SEGMENT_BYTES, Segment, SegmentWriter
from caad_ds.distill.teacher_cache.store import Store
from caad_ds.loss.head import LMHead
from caad_ds.loss.objective import hidden_contrast
from caad_ds.loss.teacher_scalars import SCALARS, gated_alpha, teacher_scalars
from caad_ds.models.shared_vocabulary import SharedVocabulary
from caad_ds.utils.errors import UserError
from caad_ds.utils.ranks import gathered, raise_together, world


class CachedTeacher:
    """The teacher of a whole cache: no model, its LM head alone."""

    def __init__(self, head: LMHead, objective: ObjectiveSection):
        self._head, self.objective = head, objective

    def states(self, batches: Sequence[PairedBatch], ours: Sequence[Batch]) -> list[TeacherStates]:
        """The stored states of each batch."""
        return [used(batch.stored, self._head, self.objective) for batch in batches if batch.stored is not None]

    @contextmanager
    def head(self) -> Iterator[LMHead]:
        """The teacher's LM head, which lies whole on every rank."""
        yield self._head

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """None: the states are read."""
        return iter(())

    def close(self) -> None:
        """Do nothing."""


class FillingTeacher:
    """The teacher of a cache that lacks rows: it runs where a rank lacks some, and what it computes is stored.

    Rows that are in the cache are used, so that a run that was killed and filled part of it computes the same. Which
    are there changes in `publish` alone, on all ranks at once.
    """

    def __init__(
        self,
        online: OnlineTeacher,
        store: Store,
        writer: SegmentWriter,
        objective: ObjectiveSection,
        shared: SharedVocabulary | None,
        continue_when_full: bool,
        say: Callable[[str], None],
    ):
        self.online, self.store, self.writer = online, store, writer
        self.objective, self.shared = objective, shared
        self.continue_when_full, self.say = continue_when_full, say
        self.writing = True
        self.runs = False  # whether the engine has computed the last states
        self._failure: UserError | None = None
        self._whole: list[Segment] = []  # of this rank, which others do not know of yet
        self._pending: set[str] = set()  # what these and the present segment hold
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="teacher-cache")
        self._job: Future[None] | None = None
        self._head: LMHead | None = None

    def states(self, batches: Sequence[PairedBatch], ours: Sequence[Batch]) -> list[TeacherStates]:
        """The states of each batch: those in the cache, and the rest of one forward."""
        assert self._head is not None, "no head: call it inside head()"
        found = [self._found(batch) for batch in batches]
        self._agree(not all(stored.whole for stored in found))
        if not self.runs:
            return [used(stored, self._head, self.objective) for stored in found]
        online = self.online.states(batches, ours)
        whole = [self._completed(*each) for each in zip(batches, found, online, strict=True)]
        return [used(stored, self._head, self.objective) for stored in whole]

    @contextmanager
    def head(self) -> Iterator[LMHead]:
        """The teacher's head gathered from all ranks for the duration of the context."""
        with self.online.head() as self._head:
            yield self._head
        self._head = None

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The teacher's weights."""
        return self.online.named_parameters()

    def note_unusable(self, key: str) -> None:
        """Note a sample that training leaves out, so that the cache is whole without it."""
        self.writer.note_unusable(key)

    def publish(self) -> None:
        """Let all ranks find what was stored so far; every rank calls it."""
        if not self.writing:
            return
        try:
            self._wait()
            if self._failure is None and (segment := self.writer.finish()):
                self._whole.append(segment)
        except UserError as error:
            self._failure = error
        self._settle(any(gathered(self._failure is not None)))
        for segments in gathered(self._whole):
            self.store.add(segments)
        self._whole, self._pending = [], set()

    @property
    def unpublished(self) -> bool:
        """Whether this rank has stored rows that others do not find yet."""
        return bool(self._pending)

    def close(self) -> None:
        """Release the engine; rows that were not published are dropped."""
        self._disk.shutdown()
        self.writer.close()
        self.store.close()
        self.online.close()

    def _found(self, batch: PairedBatch) -> StoredStates:
        assert batch.stored is not None
        if batch.stored.whole:
            return batch.stored
        counts = (batch.student.labels[:, 1:] != IGNORE).sum(1).tolist()
        on_cpu = self.store.filled(batch.stored.to("cpu"), batch.keys, counts)
        return on_cpu.to(batch.student.labels.device)

    def _agree(self, lacks: bool) -> None:
        """Find out whether any rank lacks rows, and whether the disk of any is full."""
        failed = self._job is not None and self._job.done() and self._job.exception() is not None
        if failed:
            self._wait()
        flags = torch.tensor([lacks, self._failure is not None])
        if world()[1] > 1:
            assert self._head is not None
            flags = flags.to(self._head.weight.device, torch.int32)
            dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        lacking, failing = flags.tolist()
        self.runs = bool(lacking)
        self._settle(bool(failing))

    def _settle(self, failing: bool) -> None:
        """End the run, or the filling, where a rank could not write."""
        if not failing or not self.writing:
            return
        if not self.continue_when_full:
            raise_together(self._failure)
        told = [str(error) for error in gathered(self._failure) if error is not None]
        self.say(f"teacher.cache: {told[0]}; training continues without filling it (teacher.cache.when_full)")
        self.writing, self._failure = False, None
        self.writer.close()

    def _completed(self, batch: PairedBatch, stored: StoredStates, online: TeacherStates) -> StoredStates:
        """The stored rows with those that the teacher has computed in the place of what was missing."""
        assert self._head is not None
        parts = self._as_stored(batch.student.targets, online)
        sample = batch.student.sample_of_row
        if stored.positive is not None:
            there = stored.there.to(sample.device)[sample].unsqueeze(-1)
            have = [part for part in (stored.positive, stored.negative, stored.scalars) if part is not None]
            parts = [torch.where(there, old, new) for old, new in zip(have, parts, strict=True)]
        if self.writing:
            self._store(batch, stored, parts)
        positive, *negative, scalars = parts
        return StoredStates(
            stored.contents, torch.ones_like(stored.there), positive, negative[0] if negative else None, scalars
        )

    def _as_stored(self, labels: Tensor, online: TeacherStates) -> list[Tensor]:
        """What a cache of this form keeps of the states: [N, Ht], in form pair both paths, and the scalars."""
        assert self._head is not None
        head, vocabulary = self._head, None
        if self.shared is not None:
            _, head, labels, vocabulary = self.shared.applied(head, head, labels)
        scalars = teacher_scalars(online.positive, online.negative, head, labels, vocabulary)
        layout = self.store.layout
        if layout.form == "pair":
            assert online.negative is not None
            return [online.positive, online.negative, scalars]
        if online.negative is None:
            return [online.positive, scalars]
        alpha = row_alpha(scalars, self.objective)
        contrasted = hidden_contrast(online.positive, online.negative, alpha, self._head)
        return [contrasted.to(layout.dtype), scalars]

    def _store(self, batch: PairedBatch, stored: StoredStates, parts: Sequence[Tensor]) -> None:
        """Let a thread write the rows of samples that are in no segment yet."""
        counts = (batch.student.labels[:, 1:] != IGNORE).sum(1).tolist()
        on_cpu = [part.detach().to("cpu") for part in parts]
        work, start = [], 0
        for number, (content, count) in enumerate(zip(stored.contents, counts, strict=True)):
            if count and not stored.there[number] and content not in self._pending and content not in self.store:
                rows = [part[start : start + count].contiguous() for part in on_cpu]
                work.append((batch.keys[number], content, count, rows))
                self._pending.add(content)
            start += count
        self._wait()
        if work and self._failure is None:
            self._job = self._disk.submit(self._write, work)

    def _write(self, work: Sequence[tuple[str, str, int, Sequence[Tensor]]]) -> None:
        for each in work:
            self.writer.add(*each)
        if self.writer.size >= SEGMENT_BYTES and (segment := self.writer.finish()):
            self._whole.append(segment)

    def _wait(self) -> None:
        """Wait for what is being written."""
        job, self._job = self._job, None
        try:
            if job is not None:
                job.result()
        except UserError as error:
            self._failure = error


def used(stored: StoredStates, head: LMHead, objective: ObjectiveSection) -> TeacherStates:
    """Stored states as the loss takes them; of an objective without contrast the positive path alone."""
    if stored.positive is None:  # no sample has an answer that counts
        return TeacherStates(head.weight.new_zeros(0, head.weight.shape[1]), None)
    if stored.negative is None or stored.scalars is None or not objective.alpha:
        return TeacherStates(stored.positive, None)
    alpha = row_alpha(stored.scalars, objective)
    return TeacherStates(stored.positive, stored.negative, alpha if isinstance(alpha, Tensor) else None)


def row_alpha(scalars: Tensor, objective: ObjectiveSection) -> float | Tensor:
    """The strength of the contrast: one for all, or with a gate float32 [N] from the rows' scalars [N, 5]."""
    if objective.alpha_gate == "none":
        return objective.alpha
    return gated_alpha(scalars[:, SCALARS.index("entropy_neg")], objective.alpha, objective.gate_m)
