"""A window with drawn answers in ZeRO-3 engines of this process: draws and gathers counted, keys and values freed."""

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch
from transformers.cache_utils import DynamicLayer

from caad_ds.config.reading import load_config
from caad_ds.data.batch import PairedBatch
from caad_ds.data.shard_reader import IndexedReader
from caad_ds.distill import rollouts as rollouts_module
from caad_ds.distill.pairing import Pairing
from caad_ds.distill.rollouts import Rollouts
from caad_ds.distill.step import DistillStep
from caad_ds.training import engines
from caad_ds.training.on_policy import build_rollouts
from tests.training.test_engines import counted
from tests.training.tiny import config, shared_vocabulary

pytestmark = pytest.mark.usefixtures("alone")

STEPS, WINDOW, TOKENS = 3, 2, 6


@pytest.fixture
def parts(world, tmp_path):
    """The step of a run whose student draws all answers, its engine, and `train(step)` over a window of batches."""
    objective = {"alpha": 1.0, "on_policy": {"share": 1, "max_new_tokens": TOKENS}}
    cfg = load_config(config(world, tmp_path / "out", objective=objective))
    student, lm = engines.load_student(cfg), engines.load_teacher(cfg)
    shared = shared_vocabulary(student, lm)
    drawing = build_rollouts(cfg, student, lm, shared, torch.device("cpu"))
    teacher = engines.teacher_signal(cfg, lm, shares=True)
    engine = engines.student_engine(cfg, student, 2, WINDOW, shared=shared)
    reader, pairing = IndexedReader(cfg.data.train), Pairing(student.reader, lm.reader, "zero_mel")
    step = DistillStep(engine, student, teacher, rollouts=drawing)

    def window(number: int) -> list[PairedBatch]:
        first = 2 * WINDOW * number
        return [pairing([reader[n], reader[n + 1]]) for n in range(first, first + 2 * WINDOW, 2)]

    def train(number: int) -> None:
        with step.teacher_head():
            step.train(window(number), 8, number)

    yield SimpleNamespace(engine=engine, student=student, train=train)
    engine.destroy()
    teacher.close()


def test_a_window_draws_once_and_gathers_the_student_once_for_it(parts, monkeypatch):
    """Not for each micro-batch, nor for each token: through the engine's modules it would be."""
    drawn, generated = counted(monkeypatch, Rollouts, "draw"), counted(monkeypatch, rollouts_module, "generate")
    weights = list(parts.engine.module.parameters())
    gathered: list[list[int]] = []  # of each gather its weights
    inside: list[list[int]] = []  # of those, the ones within a draw
    for weight in weights:
        for name in ("all_gather", "all_gather_coalesced"):
            monkeypatch.setattr(weight, name, noting(getattr(weight, name), gathered))
    draw = Rollouts.draw

    def noted(self, *args):
        before = len(gathered)
        answers = draw(self, *args)
        inside.extend(gathered[before:])
        return answers

    monkeypatch.setattr(Rollouts, "draw", noted)
    for number in range(STEPS):
        parts.train(number)
    assert parts.engine.global_steps == STEPS
    assert [len(args[2]) for args, _ in drawn] == [WINDOW] * STEPS
    assert [len(args[1].keys) for args, _ in generated] == [2 * WINDOW] * STEPS
    assert [set(each) >= set(map(id, weights)) for each in inside] == [True] * STEPS
    assert len(gathered) > STEPS  # forward and backward gather as well
    assert all(weight.numel() == 0 and weight.ds_numel > 0 for weight in weights)


def noting(gather, gathered: list):
    """`gather` of weights, with their ids noted."""

    def call(param_list=None, *args, **kwargs):
        gathered.append([id(weight) for weight in param_list or ()])
        return gather(param_list, *args, **kwargs)

    return call


def test_keys_and_values_are_freed_before_the_backward(parts, monkeypatch):
    """By their last reference: the garbage collector, which would free a cycle later, is off."""
    held: list[weakref.ref] = []
    alive: list[int] = []
    update, backward = DynamicLayer.update, parts.engine.backward

    def updated(self, *args, **kwargs):
        found = update(self, *args, **kwargs)
        held.extend(weakref.ref(each) for each in (self, self.keys, self.values))
        return found

    def began(loss):
        alive.append(sum(each() is not None for each in held))
        return backward(loss)

    monkeypatch.setattr(DynamicLayer, "update", updated)
    monkeypatch.setattr(parts.engine, "backward", began)
    gc.collect()
    gc.disable()
    try:
        parts.train(0)
    finally:
        gc.enable()
    assert len(held) >= 3 * TOKENS and alive == [0] * WINDOW
