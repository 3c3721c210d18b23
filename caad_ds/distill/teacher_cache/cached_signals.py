"""The teacher's states from a cache: only read, or computed and stored where rows are missing."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from caad_ds.config.objective_section import ObjectiveSection
from caad_ds.data.batch import IGNORE, Batch, PairedBatch
from caad_ds.data.stored_states import StoredStates
from caad_ds.distill.teacher_cache.cache_store import Damage, DamagedRows, Store
from caad_ds.distill.teacher_cache.row_layout import as_bytes
from caad_ds.distill.teacher_cache.segments import ROWS, SEGMENT_BYTES, Segment, SegmentWriter, drop_entries
from caad_ds.distill.teacher_signal import OnlineTeacher, TeacherStates
from caad_ds.loss.contrastive_target import hidden_contrast
from caad_ds.loss.head import LMHead
from caad_ds.loss.teacher_scalars import SCALARS, gated_alpha, log_ratio, teacher_scalars
from caad_ds.models.shared_vocabulary import SharedVocabulary
from caad_ds.utils.errors import UserError
from caad_ds.utils.launch import is_main
from caad_ds.utils.ranks import agreed, gathered, raise_together, world


@dataclass
class _Piece:
    """A sample of a batch: whether its rows were stored, and its rows in the parts of a segment."""

    key: str
    content: str
    count: int
    present: bool
    rows: list[Tensor]


class CachedTeacher:
    """The teacher of a complete cache: only its LM head, no model."""

    def __init__(self, head: LMHead, objective: ObjectiveSection):
        self._head, self.objective = head, objective

    def states(self, batches: Sequence[PairedBatch], ours: Sequence[Batch]) -> list[TeacherStates]:
        """Return the stored states of each batch."""
        return [used(batch.stored, self._head, self.objective) for batch in batches if batch.stored is not None]

    @contextmanager
    def head(self) -> Iterator[LMHead]:
        """Yield the teacher's LM head, which every rank holds whole."""
        yield self._head

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Return nothing: the states are read."""
        return iter(())

    def close(self) -> None:
        """Do nothing."""


class FillingTeacher:
    """The teacher of an incomplete cache: it runs if any rank lacks rows, and stores what it computes.

    Stored rows are used, so a run that was killed while it filled the cache computes the same. The set of stored rows
    grows only in `publish`, on all ranks at once. Until then a repeated sample gets the rows of its first occurrence,
    from the rank that has them: a run that resumes before that step reads the same. Damaged rows are named, removed
    from the index and computed again.
    """

    def __init__(
        self,
        online: OnlineTeacher,
        store: Store,
        writer: SegmentWriter | None,
        objective: ObjectiveSection,
        shared: SharedVocabulary | None,
        continue_when_full: bool,
        say: Callable[[str], None],
    ):
        self.online, self.store, self.writer = online, store, writer
        self.objective, self.shared = objective, shared
        self.continue_when_full, self.say = continue_when_full, say
        self.runs = False  # whether the engine has computed the last states
        self._failure: Exception | None = None
        self._whole: list[Segment] = []  # of this rank, not published yet
        self._holders: dict[str, int] = {}  # the rank that stored a content since `publish`; the same on all ranks
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="teacher-cache")
        self._job: Future[None] | None = None
        self._head: LMHead | None = None

    def states(self, batches: Sequence[PairedBatch], ours: Sequence[Batch]) -> list[TeacherStates]:
        """Return the states of each batch: stored ones, and the rest from one forward."""
        assert self._head is not None, "no head: call it inside head()"
        stored, failure = [], None
        try:
            stored = [self._stored(batch) for batch in batches]
        except UserError as error:
            failure = error
        self._agree(failure, not all(states.complete for states in stored))
        if not self.runs:
            return [used(states, self._head, self.objective) for states in stored]
        online = self.online.states(batches, ours)
        pieces = [self._pieces(*parts) for parts in zip(batches, stored, online, strict=True)]
        if self.writing:
            self._keep(pieces)
        return [
            used(_joined(states, rows), self._head, self.objective) for states, rows in zip(stored, pieces, strict=True)
        ]

    @contextmanager
    def head(self) -> Iterator[LMHead]:
        """Yield the teacher's head, gathered from all ranks for the duration of the context."""
        with self.online.head() as self._head:
            yield self._head
        self._head = None

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Return the teacher's weights."""
        return self.online.named_parameters()

    def note_unusable(self, key: str) -> None:
        """Note a sample that training leaves out: the cache is complete without it."""
        assert self.writer is not None
        self.writer.note_unusable(key)

    @property
    def writing(self) -> bool:
        """Whether computed states are stored; without space on the disk, only what was stored before is used."""
        return self.writer is not None

    def read_only(self) -> None:
        """Read all further samples from the complete cache; from now on one without rows is an error."""
        self.store.needed = True

    def publish(self) -> None:
        """Let all ranks read what was stored so far; every rank calls it."""
        if self.writer is None:
            return
        self._forget_damaged(self.store.take_damaged())
        try:
            self._wait()
            if self._failure is None and (segment := self.writer.finish()):
                self._whole.append(segment)
        except Exception as error:
            self._failure = error
        self._settle(any(gathered(self._failure is not None)))
        if self.writing:
            self._show()

    def _show(self) -> None:
        """Let all ranks read each other's finished segments."""
        for segments in gathered(self._whole):
            self.store.add(segments)
        self._whole, self._holders = [], {}

    def close(self) -> None:
        """Release the engine; rows that were not published are dropped."""
        self._disk.shutdown()
        if self.writer is not None:
            self.writer.close()
        self.store.close()
        self.online.close()

    def _stored(self, batch: PairedBatch) -> StoredStates:
        assert batch.stored is not None
        if batch.stored.complete:
            return batch.stored
        on_cpu = self.store.filled(batch.stored.to("cpu"), batch.keys, _counts(batch))
        return on_cpu.to(batch.student.labels.device)

    def _agree(self, broken: UserError | None, lacks: bool) -> None:
        """Find out whether any rank lacks rows, could not read some, found damaged ones, or could not write."""
        if self._job is not None and self._job.done():
            self._wait()
        damaged = {} if self.store.needed else self.store.take_damaged()
        flags = torch.tensor([broken is not None, lacks, self._failure is not None, bool(damaged)])
        if world()[1] > 1:
            assert self._head is not None
            flags = flags.to(self._head.weight.device, torch.int32)
            dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        unreadable, lacking, failing, damaging = flags.tolist()
        if unreadable:
            raise_together(broken)
        if damaging:
            self._forget_damaged(damaged)
        self.runs = bool(lacking)
        self._settle(bool(failing))

    def _forget_damaged(self, own: dict[str, Damage]) -> None:
        """Treat damaged rows that any rank has found as missing, here and on disk; every rank calls it."""
        found = {content: damage for each in gathered(own) for content, damage in each.items()}
        new = self.store.forget(found)
        for damage in new.values():
            self.say(f"teacher.cache: {damage.fault}; the teacher computes them again")
        if new and self.writing and is_main():
            by_segment = defaultdict(set)
            for content, damage in new.items():
                by_segment[damage.segment].add(content)
            try:
                drop_entries(self.store.folder, by_segment)
            except Exception as error:  # of any kind: the other ranks must not wait for this one
                self._failure = error

    def _settle(self, failing: bool) -> None:
        """End the run, or only the filling, if a rank could not write; finished segments are published."""
        if not failing or self.writer is None:
            return
        self._wait()
        unforeseen = self._failure is not None and not isinstance(self._failure, UserError)
        if not self.continue_when_full or any(gathered(unforeseen)):
            raise_together(self._failure)
        errors = [str(error) for error in gathered(self._failure) if error is not None]
        self.say(f"teacher.cache: {errors[0]}; training continues without filling it (teacher.cache.when_full)")
        self.writer.close()
        self.writer, self._failure = None, None
        self._show()

    def _pieces(self, batch: PairedBatch, stored: StoredStates, online: TeacherStates) -> list["_Piece"]:
        """Return the rows of each sample of a batch: stored ones, or those that the teacher computed."""
        counts = _counts(batch)
        ends = np.cumsum([0, *counts]).tolist()
        have = [part for part in (stored.positive, stored.negative, stored.scalars) if part is not None]
        computed = self._as_stored(batch.student.targets, online)
        pieces = []
        for number, (key, content, count) in enumerate(zip(batch.keys, stored.contents, counts, strict=True)):
            present = bool(stored.present[number])
            source = have if present and count else computed
            rows = [part[ends[number] : ends[number + 1]] for part in source]
            pieces.append(_Piece(key, content, count, present, rows))
        return pieces

    def _as_stored(self, labels: Tensor, online: TeacherStates) -> list[Tensor]:
        """Convert states to what this cache stores: [N, Ht], in form pair both paths, and the scalars."""
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

    def _keep(self, batches: Sequence[Sequence["_Piece"]]) -> None:
        """Store samples that occur for the first time, and give their rows to all others of the same content."""
        rank = world()[0]
        lacking = [piece for pieces in batches for piece in pieces if not piece.present]
        again: set[str] = set()
        first: set[str] = set()
        for holder, contents in enumerate(gathered([piece.content for piece in lacking])):
            for content in contents:
                (again if content in self._holders else first).add(content)
                self._holders.setdefault(content, holder)
        self._wait()
        work = []
        for piece in lacking:
            if piece.content in first and self._holders[piece.content] == rank:
                first.remove(piece.content)
                rows = [part.detach().to("cpu").contiguous() for part in piece.rows]
                work.append((piece.key, piece.content, piece.count, rows))
        if work and self._failure is None:
            self._job = self._disk.submit(self._write, work)
        if again:
            self._repeat(again, [piece for piece in lacking if piece.content in again])

    def _repeat(self, contents: Collection[str], pieces: Sequence["_Piece"]) -> None:
        """Give samples the rows that some rank has stored for their contents; every rank calls it."""
        self._wait()
        own = [content for content in sorted(contents) if self._holders[content] == world()[0]]
        mine = agreed(lambda: {} if self._failure is not None else {content: self._read(content) for content in own})
        rows = {content: parts for held in gathered(mine) for content, parts in held.items()}
        for piece in pieces:
            if (parts := rows.get(piece.content)) is not None:  # None if the disk is full
                piece.rows = [part.to(old.device) for part, old in zip(parts, piece.rows, strict=True)]

    def _read(self, content: str) -> list[Tensor]:
        """Read rows that this rank has stored but not published yet."""
        assert self.writer is not None
        named = ((segment.name + ROWS, entry) for segment in self._whole for entry in segment.entries)
        locations = chain(named, self.writer.locations())
        file, entry = next((file, entry) for file, entry in locations if entry.content == content)
        parts = self.store.layout.empty(entry.rows)
        try:
            self.store.fetch(file, entry, [as_bytes(part) for part in parts])
        except DamagedRows as error:
            raise DamagedRows(f"{error}; start the run again, which computes them again") from error
        return parts

    def _write(self, work: Sequence[tuple[str, str, int, Sequence[Tensor]]]) -> None:
        assert self.writer is not None
        for sample in work:
            self.writer.add(*sample)
        if self.writer.size >= SEGMENT_BYTES and (segment := self.writer.finish()):
            self._whole.append(segment)

    def _wait(self) -> None:
        """Wait for the current write."""
        job, self._job = self._job, None
        try:
            if job is not None:
                job.result()
        except Exception as error:  # of any kind: the other ranks must not wait for this one
            self._failure = error


def _counts(batch: PairedBatch) -> list[int]:
    """Count the answer rows of each sample."""
    return (batch.student.labels[:, 1:] != IGNORE).sum(1).tolist()


def _joined(stored: StoredStates, pieces: Sequence[_Piece]) -> StoredStates:
    """Join the rows of samples to the states of a batch."""
    positive, *negative, scalars = (torch.cat(parts) for parts in zip(*(p.rows for p in pieces), strict=True))
    present = torch.ones_like(stored.present)
    return StoredStates(stored.contents, present, positive, negative[0] if negative else None, scalars)


def used(stored: StoredStates, head: LMHead, objective: ObjectiveSection) -> TeacherStates:
    """Convert stored states for the loss; without contrast, only the positive path."""
    if stored.positive is None:  # no sample has a valid answer
        return TeacherStates(head.weight.new_zeros(0, head.weight.shape[1]), None)
    advantage = None
    if objective.row_weight == "audio_advantage" and stored.scalars is not None:
        advantage = log_ratio(stored.scalars)
    if stored.negative is None or stored.scalars is None or not objective.alpha:
        return TeacherStates(stored.positive, None, advantage=advantage)
    alpha = row_alpha(stored.scalars, objective)
    return TeacherStates(stored.positive, stored.negative, alpha if isinstance(alpha, Tensor) else None, advantage)


def row_alpha(scalars: Tensor, objective: ObjectiveSection) -> float | Tensor:
    """Return alpha: one for all rows, or with a gate float32 [N] from the rows' scalars [N, 5]."""
    if objective.alpha_gate == "none":
        return objective.alpha
    return gated_alpha(scalars[:, SCALARS.index("entropy_neg")], objective.alpha, objective.gate_m)
