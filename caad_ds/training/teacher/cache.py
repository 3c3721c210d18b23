"""The teacher cache of a run: its key, whether it is complete, and the teacher that fills it."""

import hashlib
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from caad_ds.config.cache_section import CacheSection
from caad_ds.config.schema import Config
from caad_ds.data.shard_reader import IndexedReader
from caad_ds.data.stream import StreamReader
from caad_ds.distill.teacher_cache.cache_store import Store, named
from caad_ds.distill.teacher_cache.cached_signals import FillingTeacher
from caad_ds.distill.teacher_cache.filling_state import MARK, WHOLE, changing, filling, mark_of, writer_of
from caad_ds.distill.teacher_cache.head_file import HEAD, read_head, write_head
from caad_ds.distill.teacher_cache.key import FORM, KEY, PRECISION, check_key, fingerprint, read_key, write_key
from caad_ds.distill.teacher_cache.row_layout import Layout
from caad_ds.distill.teacher_cache.segments import (
    Segment,
    SegmentWriter,
    drop_unfinished,
    index_files,
    length_fault,
    read_segments,
)
from caad_ds.distill.teacher_signal import OnlineTeacher
from caad_ds.loss.head import LMHead
from caad_ds.models import auto
from caad_ds.models.architecture import is_architecture, read_architecture
from caad_ds.models.audio_lm import AudioLM
from caad_ds.models.model_hashes import file_states, model_hash
from caad_ds.models.reader import Reader
from caad_ds.models.shared_vocabulary import SharedVocabulary
from caad_ds.training.batches import partners_identity
from caad_ds.utils.array_task import Part
from caad_ds.utils.errors import DiskFull, UserError
from caad_ds.utils.files import disk_errors, has_locks
from caad_ds.utils.launch import is_main
from caad_ds.utils.ranks import agreed, from_main, world

VOCABULARY = "vocabulary of the scalars"
TEACHER = "teacher (its files)"
FILES = "state of the teacher's files"  # a note: on another file system equal files have another state


@dataclass(frozen=True)
class Seen:
    """State of a run's cache as rank 0 sees it; others may fill it meanwhile.

    Args:
        weights: the hash of the teacher's files; for an architecture, of its settings and its seed.
        files: the state of these files, which the key notes; None for an architecture.
        key: what the stored states depend on; None if there is no cache yet.
        segments: the existing segments.
        marks: names of the marks of trainings that have not gone through their data.
    """

    weights: str
    files: str | None
    key: dict[str, Any] | None
    segments: list[Segment]
    marks: frozenset[str] = frozenset()


def seen(cfg: Config) -> Seen | None:
    """Read the state of a run's cache; None for a run without one."""
    if cfg.teacher is None or cfg.teacher.cache is None:
        return None
    key = read_key(cfg.teacher.cache.path)
    segments = read_segments(cfg.teacher.cache.path) if key is not None else []
    marks = frozenset(path.name for path in cfg.teacher.cache.path.glob(f"*{MARK}"))
    if is_architecture(cfg.teacher.path):
        values = sorted(read_architecture(cfg.teacher.path).items())
        weights = hashlib.sha256(repr((values, cfg.run.seed + 1)).encode()).hexdigest()
        return Seen(weights, None, key, segments, marks)
    files = file_states(cfg.teacher.path)
    # Unchanged files are not read again: an 8B teacher's have 16 GB.
    known = key["made_of"].get(TEACHER) if key is not None and key.get(FILES) == files else None
    return Seen(known or model_hash(cfg.teacher.path), files, key, segments, marks)


class TeacherCache:
    """The cache that `teacher.cache` names.

    Args:
        there: the state that rank 0 sees.
        data: the training data, whose audio may be a negative.
        readers: readers of the samples that a complete cache must hold.
        part: the part of an array job that fills it.
        refill: whether to fill it even if it looks complete, and to read all samples for that.
    """

    def __init__(
        self,
        cfg: Config,
        there: Seen,
        data: IndexedReader | StreamReader,
        readers: Sequence[IndexedReader],
        stream: bool = False,
        part: Part = WHOLE,
        refill: bool = False,
    ):
        assert cfg.teacher is not None and cfg.teacher.cache is not None
        self.section: CacheSection = cfg.teacher.cache
        self.folder = self.section.path
        self.objective = cfg.objective
        self.reader = _teachers_reader(cfg)
        self.made_of = made_of(cfg, there, data, self.reader)
        self._readers, self._stream = readers, stream
        self._precision = cfg.run.precision
        self._part = part
        self._refill = refill
        self._data = [each.identity for each in readers]
        self._mark = mark_of(self.folder, self._data)
        self.store: Store | None = None
        self.head: LMHead | None = None
        self.positions: int | None = None
        self._files = there.files
        self.key = stored = there.key
        if stored is not None:
            check_key(self.folder, stored, self.made_of)
        fills = self.section.fill
        if stored is None and not fills:
            raise UserError(
                f"teacher.cache.path {self.folder}: there is no cache, and teacher.cache.fill is false; fill it with "
                "`caad-ds cache-teacher`, or set fill to true"
            )
        self.complete = not fills
        if stored is not None:
            self.store = self._store(stored["width"], there.segments)
            self.store.needed = not fills
            begun = self._mark.name in there.marks
            self.complete = not fills or (not refill and not begun and not self.lacking())
        known = not cfg.data.skip_broken  # broken samples may be left out
        if not fills and self.store is not None and known and (lacking := self._lacking()):
            raise UserError(self.store.missing(lacking[0], len(lacking) - 1))
        if self.complete:
            assert self.store is not None and stored is not None
            self.store.needed = True
            self.head, self.positions = read_head(self.folder), stored["positions"]

    def lacking(self) -> list[str]:
        """Return the keys of samples without rows; for a stream they are unknown."""
        return ["every sample"] if self.store is None or self._stream else self._lacking()

    def _lacking(self, noted: bool = True) -> list[str]:
        """Return the keys of samples in an index without rows; see `Store.lacks`."""
        assert self.store is not None
        return self.store.lacks((named(entry) for reader in self._readers for entry in reader.index.samples), noted)

    def check_used(self) -> None:
        """Raise UserError if a complete cache has no rows of a sample that is used, such as one noted as unusable.

        Call it when the samples that this run cannot use have been left out.
        """
        if lacking := self._lacking(noted=False):
            assert self.store is not None
            raise UserError(self.store.missing(lacking[0], len(lacking) - 1))

    def finish(self) -> None:
        """Note that all data has been gone through: a run that starts now does not load the teacher. On rank 0.

        A part of an array job has gone through its own samples alone, and leaves a training's mark.
        """
        if self._part == WHOLE:
            with disk_errors(self.folder):
                self._mark.unlink(missing_ok=True)

    def check_vocabulary(self, shared: SharedVocabulary | None) -> None:
        """Raise UserError if scalars are needed, or added, over other tokens than the stored ones."""
        there, here = (self.key or {}).get(VOCABULARY), _named(shared)
        if there in (None, here):
            return
        what = f"over other tokens of the vocabulary ({there}, here {here}); name another folder"
        if not self.complete:
            raise UserError(f"teacher.cache.path {self.folder}: its scalars are {what}")
        if needs := [name for name in ("alpha_gate", "row_weight") if getattr(self.objective, name) != "none"]:
            raise UserError(
                f"teacher.cache.path {self.folder}: its scalars, which objective.{needs[0]} needs, are {what}, or set "
                f"{needs[0]} to none"
            )

    def fill(
        self,
        online: OnlineTeacher,
        teacher: AudioLM,
        shared: SharedVocabulary | None,
        held: ExitStack,
        say: Callable[[str], None],
        unusable: Collection[str] = (),
    ) -> FillingTeacher:
        """Return the teacher that stores what it computes; every rank calls it.

        `unusable` are keys of samples that were left out: the cache is complete without them.
        """
        writes = True
        with online.head() as head:
            try:
                agreed(lambda: self._prepare(head, teacher, shared, held) if is_main() else None)
            except DiskFull as error:
                if self.section.when_full == "stop":
                    raise
                say(f"teacher.cache: {error}; training continues without filling it (teacher.cache.when_full)")
                writes = False
        # Without a key that was compared, segments may be those of another teacher.
        there = from_main(lambda: read_segments(self.folder) if writes or self.key is not None else [])
        teacher_with_cache = agreed(lambda: self._filling(online, shared, head.weight.shape[1], there, say, writes))
        if is_main() and writes:
            for key in teacher_with_cache.store.lacks((key, "") for key in sorted(unusable)):
                teacher_with_cache.note_unusable(key)
        return teacher_with_cache

    def make_folder(self) -> None:
        """Make the folder; UserError if it cannot be written, or its file system has no locks."""
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            locks = has_locks(self.folder)
        if not locks:
            raise UserError(
                f"teacher.cache.path {self.folder}: its file system has no file locks (Lustre: mount with -o flock), "
                "so that two runs could fill it at once; fill it on another file system and copy it, to be read"
            )

    def _prepare(self, head: LMHead, teacher: AudioLM, shared: SharedVocabulary | None, held: ExitStack) -> None:
        """Make the folder, take its lock, write key and head, on rank 0."""
        if head.softcap is not None and self.section.form == "contrast":
            raise UserError(
                f"teacher.cache.form contrast: the logits of a {teacher.family} have a soft cap, so that a contrast of "
                "hidden states is not that of logits; set it to pair"
            )
        self.make_folder()
        with changing(self.folder):  # parts of an array job begin together
            held.enter_context(filling(self.folder.resolve(), self._part, self._data))
            drop_unfinished(self.folder, "*" if self._part == WHOLE else f"{writer_of(self._part)}-*")
            self.key = stored = read_key(self.folder)
            if stored is None:
                if index_files(self.folder):
                    raise UserError(
                        f"teacher.cache.path {self.folder}: it has segments and no {KEY}, so that nobody knows what "
                        "they were made of; restore that file, or name another folder"
                    )
                width, positions = head.weight.shape[1], teacher.position_limit
                notes = {"width": width, "positions": positions, VOCABULARY: _named(shared), FILES: self._files}
                write_key(self.folder, self.made_of, notes)
            else:  # another process may have made it in the meantime
                check_key(self.folder, stored, self.made_of)
                self.check_vocabulary(shared)
                if stored.get(FILES) != self._files:  # the cache was copied, or the teacher
                    write_key(self.folder, self.made_of, stored | {FILES: self._files})
            if not (self.folder / HEAD).exists():
                write_head(self.folder, head)
            if not self._refill and not self._stream:
                with disk_errors(self.folder):
                    self._mark.touch()

    def _filling(
        self,
        online: OnlineTeacher,
        shared: SharedVocabulary | None,
        width: int,
        there: Sequence[Segment],
        say: Callable[[str], None],
        writes: bool,
    ) -> FillingTeacher:
        self.store = self._store(width, there)
        writer = SegmentWriter(self.folder, f"{writer_of(self._part)}-{world()[0]:05d}") if writes else None
        continues = self.section.when_full == "continue"
        return FillingTeacher(online, self.store, writer, self.objective, shared, continues, say)

    def _store(self, width: int, there: Sequence[Segment]) -> Store:
        """Open the segments that rank 0 sees; UserError if this rank does not see them."""
        if fault := next(filter(None, (length_fault(self.folder, segment) for segment in there)), None):
            raise UserError(f"{fault} (rank 0 sees it so); use a folder that all nodes share")
        return Store(self.folder, Layout(self.section.form, width, self._precision), segments=there)


def open_cache(
    cfg: Config, there: Seen | None, reader: IndexedReader | StreamReader, readers: Sequence[IndexedReader]
) -> TeacherCache | None:
    """Open the cache of a run's training and validation data, if its config has one."""
    if there is None:
        return None
    return TeacherCache(cfg, there, reader, readers, isinstance(reader, StreamReader))


def made_of(cfg: Config, there: Seen, data: IndexedReader | StreamReader, reader: Reader) -> dict[str, str]:
    """Return what the stored states depend on besides the samples, by name."""
    section, objective, run = cfg.teacher, cfg.objective, cfg.run
    assert section is not None and section.cache is not None
    parts: dict[str, Any] = {TEACHER: there.weights}
    parts |= {f"reading of samples ({name})": value for name, value in reader.identity().items()}
    parts |= {
        "negative (teacher.negative)": section.negative,
        "answer cut (data.max_answer_tokens)": cfg.data.max_answer_tokens,
        PRECISION: run.precision,
        "run.encoder_precision": run.encoder_precision,
        "run.attention": run.attention,
        "version of torch": torch.__version__.partition("+")[0],
        "version of transformers": transformers.__version__,
        FORM: section.cache.form,
    }
    if section.negative == "shuffled":
        parts["data (its audio is the negative of other samples)"] = partners_identity(data)
    if section.cache.form == "contrast":
        parts["objective.alpha"] = objective.alpha
        parts["objective.alpha_gate"] = objective.alpha_gate
        parts["objective.gate_m"] = objective.gate_m
    return fingerprint(parts)


def _teachers_reader(cfg: Config) -> Reader:
    assert cfg.teacher is not None
    reader = auto.load_reader(cfg.teacher.path, cfg.student.tokenizer)
    reader.set_transcript(cfg.teacher.transcript)
    return reader


def _named(shared: SharedVocabulary | None) -> str:
    """Name the tokens that the scalars are over."""
    if shared is None or shared.ids is None:
        return "all" if shared is None else f"the first {shared.size}"
    return f"{shared.size}, sha256 {hashlib.sha256(shared.ids.numpy().tobytes()).hexdigest()[:16]}"
