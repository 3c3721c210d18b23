"""Training steps with a teacher cache on disk, for `step.py`: states are read, or computed and written."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from benchmarks.step_models import Setting
from caad_ds.config.schema import Config
from caad_ds.data.batch import IGNORE, Batch, PairedBatch
from caad_ds.data.stored_states import StoredStates
from caad_ds.distill.student_objective import StudentObjective
from caad_ds.distill.teacher_cache.cache_store import Store
from caad_ds.distill.teacher_cache.cached_signals import CachedTeacher, FillingTeacher
from caad_ds.distill.teacher_cache.row_layout import Layout
from caad_ds.distill.teacher_cache.segments import SegmentWriter
from caad_ds.distill.teacher_signal import TeacherForward, TeacherSignal, TeacherStates
from caad_ds.loss.head import LMHead
from caad_ds.utils.memory import MIB

Form = Literal["pair", "contrast"]
Batches = Callable[[], PairedBatch]  # returns the next batch, with the rows read by the loader
EPOCHS = 10


@dataclass
class Row:
    """A step's GFLOP and milliseconds."""

    flops: float
    took: float

    def line(self, name: str, first: "Row | None", peak: float | None) -> str:
        """Format a line of the table; `first` is the authors' graph, `peak` is in MiB."""
        ratios = f"{self.took / first.took:.2f} | {self.flops / first.flops:.2f}" if first else " | "
        memory = "" if peak is None else f"{peak:.0f}"
        if peak is not None and torch.cuda.is_available():
            memory += f" ({torch.cuda.max_memory_allocated() / MIB:.0f})"
        return f"| {name} | {self.flops:.0f} | {self.took / 1000:.3f} | {ratios} | {memory} |"


def print_ten_epochs(rows: Mapping[str, Row], name: str, first: Row | None) -> None:
    """Print the mean step over EPOCHS epochs, computed from a filling and a cached step if both were measured."""
    filled, read = rows.get(f"{name}, filling"), rows.get(f"{name}, cached, pair")
    if filled and read:
        others = EPOCHS - 1
        mean = Row((filled.flops + others * read.flops) / EPOCHS, (filled.took + others * read.took) / EPOCHS)
        print(mean.line(f"{name}, mean of {EPOCHS} epochs, one filling", first, None), flush=True)


class WithoutEngine:
    """The teacher as `OnlineTeacher` runs it, without a DeepSpeed engine."""

    def __init__(self, setting: Setting):
        self.lm, self._forward = setting.teacher, TeacherForward(setting.teacher)

    @torch.no_grad()
    def states(self, batches: Sequence[PairedBatch], ours: Sequence[Batch]) -> list[TeacherStates]:
        """Return the states of each batch; the student shares the teacher's encoding."""
        return [
            TeacherStates(*self._forward(prepared, self.lm.prepare(batch.negative)))
            for batch, prepared in zip(batches, ours, strict=True)
            if batch.negative is not None
        ]

    @contextmanager
    def head(self) -> Iterator[LMHead]:
        """Yield the LM head."""
        yield self.lm.head()

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the teacher's weights."""
        return self.lm.module.named_parameters()

    def close(self) -> None:
        """Do nothing."""


def open_store(setting: Setting, cfg: Config, form: Form, folder: Path) -> Store:
    """Create an empty cache for the setting's teacher."""
    folder.mkdir(parents=True)
    return Store(folder, Layout(form, setting.teacher.head().weight.shape[1], cfg.run.precision))


def filling(
    setting: Setting, cfg: Config, form: Form, folder: Path, online: TeacherSignal | None = None
) -> tuple[FillingTeacher, Batches]:
    """Return a teacher that stores the states that it computes, and batches that are not in the cache."""
    store = open_store(setting, cfg, form, folder)
    teacher = FillingTeacher(
        online or WithoutEngine(setting),  # type: ignore[arg-type]
        store, SegmentWriter(folder, "00000"), cfg.objective, None, False, print,
    )  # fmt: skip
    batch, negative = setting.batch, setting.negative()
    calls = iter(range(10**9))

    def batches() -> PairedBatch:
        call = next(calls)
        contents = [f"{call}/{key}" for key in batch.keys]
        return PairedBatch(batch, batch, negative, StoredStates(contents, torch.zeros(len(contents), dtype=torch.bool)))

    return teacher, batches


def cached(setting: Setting, cfg: Config, form: Form, folder: Path) -> tuple[CachedTeacher, Batches]:
    """Return a teacher with a complete cache of the setting's batch, and batches whose rows are read from disk."""
    filler, new = filling(setting, cfg, form, folder)
    first = new()
    with filler.head():
        filler.states([first], [setting.student.prepare(setting.batch)])
    filler.publish()
    filler.close()
    assert first.stored is not None
    batch, store = setting.batch, Store(folder, filler.store.layout, needed=True)
    contents, counts = first.stored.contents, (batch.labels[:, 1:] != IGNORE).sum(1).tolist()
    wanted = StoredStates(contents, torch.zeros(len(contents), dtype=torch.bool))

    def batches() -> PairedBatch:
        stored = store.filled(wanted, batch.keys, counts).to(batch.input_ids.device)
        return PairedBatch(batch, stored=stored)

    head = setting.teacher.head()
    bias = None if head.bias is None else head.bias.detach().clone()
    head = replace(head, weight=head.weight.detach().to(batch.input_ids.device, copy=True), bias=bias)
    return CachedTeacher(head, cfg.objective), batches


def without_engine(
    setting: Setting, cfg: Config, teacher: CachedTeacher | FillingTeacher, batches: Batches
) -> Callable[[], None]:
    """Return the step as training computes it, without DeepSpeed engines."""
    module = StudentObjective(setting.student, cfg.objective)
    count = len(setting.batch.targets)

    def step() -> None:
        paired = batches()
        batch = setting.student.prepare(paired.student)
        with teacher.head() as head:
            [states] = teacher.states([paired], [batch])
            module(batch, states.positive, states.negative, head, count)[0].backward()
        setting.optimizer.step()
        setting.optimizer.zero_grad()

    return step


def read_rows(setting: Setting, cfg: Config, form: Form, work: Path) -> Callable[[], None]:
    """Return the step that reads the teacher's states."""
    return without_engine(setting, cfg, *cached(setting, cfg, form, work / f"plain-{form}"))


def fill_rows(setting: Setting, cfg: Config, form: Form, work: Path) -> Callable[[], None]:
    """Return the step that computes and stores the teacher's states."""
    return without_engine(setting, cfg, *filling(setting, cfg, form, work / f"plain-filling-{form}"))
