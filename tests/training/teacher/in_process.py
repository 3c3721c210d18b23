"""Training in the test's own process with one rank: its output and losses, and an end like that by SIGKILL."""

import gc
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from caad_ds.config.reading import load_config
from caad_ds.distill.step import DistillStep
from caad_ds.distill.teacher_cache.cache_store import Store
from caad_ds.distill.teacher_cache.filling_state import WHOLE
from caad_ds.distill.teacher_cache.row_layout import Layout
from caad_ds.distill.teacher_cache.segments import SegmentWriter
from caad_ds.distill.teacher_signal import OnlineTeacher
from caad_ds.training.teacher.cache_filling import CacheFilling
from caad_ds.training.teacher.cache_teacher import to_fill
from caad_ds.training.trainer import Trainer
from caad_ds.utils.progress import Heartbeat
from tests.training.launching import weights
from tests.training.tiny import config


class Killed(BaseException):
    """The moment at which a test ends a run."""


@dataclass
class Trained:
    """A finished run: kd and ce of each micro-batch, its output, whether it was killed."""

    losses: list[tuple[float, float]] = field(default_factory=list)
    said: str = ""
    killed: bool = False
    trainer: Trainer | None = None


def trained(file: Path, prepare: Callable[[Trainer], None] | None = None, step: int | None = None) -> Trained:
    """Train to the end, or until Killed is raised: before step number `step`, or by what `prepare` has put in."""
    out, stream = Trained(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        train = DistillStep.train

        def noted(self, batches, normalizer, number):
            if step is not None and out.trainer.begun == step:
                raise Killed
            out.trainer.begun += 1
            terms = train(self, batches, normalizer, number)
            out.losses += [(float(kd), float(ce)) for kd, ce, _ in terms]
            return terms

        patch.setattr(DistillStep, "train", noted)
        try:
            with Trainer(load_config(file), torch.device("cpu"), Heartbeat(stream=stream)) as trainer:
                out.trainer = trainer
                resume = trainer._resume

                def resumed():
                    state = resume()
                    trainer.begun = state.step
                    return state

                trainer._resume = resumed
                if prepare is not None:
                    prepare(trainer)
                try:
                    assert trainer.run() == 0
                except Killed:
                    out.killed = True
                    patch.setattr(SegmentWriter, "close", lambda self: None)  # SIGKILL leaves what is half written
        finally:
            out.said = stream.getvalue()
    gc.collect()
    return out


def filled(file: Path, batch: int = 4) -> str:
    """Fill a cache as `caad-ds cache-teacher` does; what was said."""
    stream = io.StringIO()
    with CacheFilling(to_fill(load_config(file)), torch.device("cpu"), Heartbeat(stream=stream), WHOLE) as filling:
        filling.run(batch)
    return stream.getvalue()


def with_cache(world: Path, out: Path, folder: Path | None, **changes: dict | None) -> Path:
    """A config of the tiny world with a teacher cache; keys of `cache` are those of teacher.cache."""
    section = {"path": str(folder)} | (changes.pop("cache", None) or {})
    teacher = ({} if folder is None else {"cache": section}) | (changes.pop("teacher", None) or {})
    return config(world, out, **({"tracking": {"enabled": False}, "teacher": teacher} | changes))


def same_weights(first: Path, second: Path) -> bool:
    """Whether two runs have ended with the same weights, bit for bit."""
    a, b = weights(first), weights(second)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def rows_of(cache: Path) -> dict[str, str]:
    """The hash of the rows of each content, by which two caches are compared."""
    store = Store(cache, Layout("pair", 32, "fp32"))
    try:
        return {content: entry.sha256 for content, (_, entry) in store._locations.items()}
    finally:
        store.close()


def batch_dependent() -> None:
    """Make the teacher's states depend on the batch as rounding does, but by far more: on a row's place in it.

    A run that takes a sample's states of another batch than an undisturbed one does then ends with other weights.
    """
    signal = OnlineTeacher.signal

    def shifted(self, batch, negative):
        shift = 0.05 * torch.arange(len(batch.targets)).unsqueeze(-1) + 0.01 * batch.input_ids.sum() % 1
        return [None if states is None else states + shift for states in signal(self, batch, negative)]

    OnlineTeacher.signal = shifted
