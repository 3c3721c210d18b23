"""The teacher's states from a cache: read alone, or computed where rows are missing and then stored."""

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
from caad_ds.distill.signal import OnlineTeacher, TeacherStates
from caad_ds.distill.teacher_cache.layout import as_bytes
from caad_ds.distill.teacher_cache.segments import ROWS, SEGMENT_BYTES, Segment, SegmentWriter
from caad_ds.distill.teacher_cache.store import Store
from caad_ds.loss.head import LMHead
from caad_ds.loss.objective import hidden_contrast
from caad_ds.loss.teacher_scalars import SCALARS, gated_alpha, log_ratio, teacher_scalars
from caad_ds.models.shared_vocabulary import SharedVocabulary
from caad_ds.utils.errors import UserError
from caad_ds.utils.ranks import agreed, gathered, raise_together, world


@dataclass
class _Piece:
    """A sample of a batch: whether its rows were there, and each part of its rows as a segment has them."""

    key: str
    content: str
    count: int
    there: bool
    rows: list[Tensor]


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
    are there changes in `publish` alone, on all ranks at once. Until then the rows of a sample that comes again are
    those of its first place, whichever rank has them: that is what a run reads which resumes before that step.
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
        self._failure: Exception | None = None
        self._whole: list[Segment] = []  # of this rank, which others do not know of yet
        self._holders: dict[str, int] = {}  # the rank that has stored a content since `publish`, the same on all
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="teacher-cache")
        self._job: Future[None] | None = None
        self._head: LMHead | None = None

    def states(self, batches: Sequence[PairedBatch], ours: Sequence[Batch]) -> list[TeacherStates]:
        """The states of each batch: those in the cache, and the rest of one forward."""
        assert self._head is not None, "no head: call it inside head()"
        found, failure = [], None
        try:
            found = [self._found(batch) for batch in batches]
        except UserError as error:
            failure = error
        self._agree(failure, not all(stored.whole for stored in found))
        if not self.runs:
            return [used(stored, self._head, self.objective) for stored in found]
        online = self.online.states(batches, ours)
        pieces = [self._pieces(*each) for each in zip(batches, found, online, strict=True)]
        if self.writing:
            self._keep(pieces)
        return [
            used(_joined(stored, each), self._head, self.objective) for stored, each in zip(found, pieces, strict=True)
        ]

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
        except Exception as error:
            self._failure = error
        self._settle(any(gathered(self._failure is not None)))
        if self.writing:
            self._show()

    def _show(self) -> None:
        """Let all ranks find the segments of each that have their names."""
        for segments in gathered(self._whole):
            self.store.add(segments)
        self._whole, self._holders = [], {}

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
        on_cpu = self.store.filled(batch.stored.to("cpu"), batch.keys, _counts(batch))
        return on_cpu.to(batch.student.labels.device)

    def _agree(self, broken: UserError | None, lacks: bool) -> None:
        """Find out whether any rank lacks rows, could not read some, or could not write."""
        if self._job is not None and self._job.done():
            self._wait()
        flags = torch.tensor([broken is not None, lacks, self._failure is not None])
        if world()[1] > 1:
            assert self._head is not None
            flags = flags.to(self._head.weight.device, torch.int32)
            dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        unreadable, lacking, failing = flags.tolist()
        if unreadable:
            raise_together(broken)
        self.runs = bool(lacking)
        self._settle(bool(failing))

    def _settle(self, failing: bool) -> None:
        """End the run, or the filling, where a rank could not write; what has its name by then is found by all."""
        if not failing or not self.writing:
            return
        self._wait()
        unforeseen = self._failure is not None and not isinstance(self._failure, UserError)
        if not self.continue_when_full or any(gathered(unforeseen)):
            raise_together(self._failure)
        told = [str(error) for error in gathered(self._failure) if error is not None]
        self.say(f"teacher.cache: {told[0]}; training continues without filling it (teacher.cache.when_full)")
        self.writing, self._failure = False, None
        self.writer.close()
        self._show()

    def _pieces(self, batch: PairedBatch, stored: StoredStates, online: TeacherStates) -> list["_Piece"]:
        """The rows of each sample of a batch: those that are stored, or what the teacher has computed."""
        counts = _counts(batch)
        ends = np.cumsum([0, *counts]).tolist()
        have = [part for part in (stored.positive, stored.negative, stored.scalars) if part is not None]
        made = self._as_stored(batch.student.targets, online)
        pieces = []
        for number, (key, content, count) in enumerate(zip(batch.keys, stored.contents, counts, strict=True)):
            there = bool(stored.there[number])
            source = have if there and count else made
            rows = [part[ends[number] : ends[number + 1]] for part in source]
            pieces.append(_Piece(key, content, count, there, rows))
        return pieces

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

    def _keep(self, batches: Sequence[Sequence["_Piece"]]) -> None:
        """Store the samples that come for the first time, and give all others of the same content their rows."""
        rank = world()[0]
        lacking = [piece for pieces in batches for piece in pieces if not piece.there]
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
        """Give samples the rows that a rank has stored of their contents; every rank calls it."""
        self._wait()
        held = [content for content in sorted(contents) if self._holders[content] == world()[0]]
        mine = agreed(lambda: {} if self._failure is not None else {content: self._read(content) for content in held})
        rows = {content: parts for each in gathered(mine) for content, parts in each.items()}
        for piece in pieces:
            if (parts := rows.get(piece.content)) is not None:  # there are none where the disk is full
                piece.rows = [part.to(old.device) for part, old in zip(parts, piece.rows, strict=True)]

    def _read(self, content: str) -> list[Tensor]:
        """Rows that this rank has stored and that others do not find yet."""
        named = ((segment.name + ROWS, entry) for segment in self._whole for entry in segment.entries)
        file, entry = next(place for place in chain(named, self.writer.places()) if place[1].content == content)
        parts = self.store.layout.empty(entry.rows)
        self.store.fetch(file, entry, [as_bytes(part) for part in parts])
        return parts

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
        except Exception as error:  # whatever it is, the other ranks must not wait for this one
            self._failure = error


def _counts(batch: PairedBatch) -> list[int]:
    """The answer rows of each sample."""
    return (batch.student.labels[:, 1:] != IGNORE).sum(1).tolist()


def _joined(stored: StoredStates, pieces: Sequence[_Piece]) -> StoredStates:
    """The states of a batch of its samples' rows."""
    positive, *negative, scalars = (torch.cat(parts) for parts in zip(*(p.rows for p in pieces), strict=True))
    there = torch.ones_like(stored.there)
    return StoredStates(stored.contents, there, positive, negative[0] if negative else None, scalars)


def used(stored: StoredStates, head: LMHead, objective: ObjectiveSection) -> TeacherStates:
    """Stored states as the loss takes them; of an objective without contrast the positive path alone."""
    if stored.positive is None:  # no sample has an answer that counts
        return TeacherStates(head.weight.new_zeros(0, head.weight.shape[1]), None)
    advantage = None
    if objective.row_weight == "audio_advantage" and stored.scalars is not None:
        advantage = log_ratio(stored.scalars)
    if stored.negative is None or stored.scalars is None or not objective.alpha:
        return TeacherStates(stored.positive, None, advantage=advantage)
    alpha = row_alpha(stored.scalars, objective)
    return TeacherStates(stored.positive, stored.negative, alpha if isinstance(alpha, Tensor) else None, advantage)


def row_alpha(scalars: Tensor, objective: ObjectiveSection) -> float | Tensor:
    """The strength of the contrast: one for all, or with a gate float32 [N] from the rows' scalars [N, 5]."""
    if objective.alpha_gate == "none":
        return objective.alpha
    return gated_alpha(scalars[:, SCALARS.index("entropy_neg")], objective.alpha, objective.gate_m)
