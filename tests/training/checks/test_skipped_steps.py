"""Whatever the student's engine, a step that is not finite leaves nothing behind in weights, states and gradients."""

import json
from collections.abc import Callable

import pytest
import torch

from caad_ds.config.reading import load_config
from caad_ds.data.shard_reader import IndexedReader
from caad_ds.distill.pairing import Pairing
from caad_ds.distill.step import DistillStep
from caad_ds.training import engines
from caad_ds.training.checks.finite_weights import own_optimizer
from caad_ds.training.optimizer import forget_gradients
from tests.training.tiny import ZERO3, ce

pytestmark = pytest.mark.usefixtures("alone")

OFFLOADED = {"offload_optimizer": {"device": "cpu"}}
ZERO = {
    "0": {"stage": 0},
    "1": {"stage": 1},
    "2": {"stage": 2},
    "3": ZERO3,
    "1, optimizer offloaded": {"stage": 1} | OFFLOADED,
    "2, optimizer offloaded": {"stage": 2} | OFFLOADED,
    "3, optimizer offloaded": ZERO3 | OFFLOADED,
    "3, all offloaded": ZERO3 | OFFLOADED | {"offload_param": {"device": "cpu"}},
}
PRECISIONS = {"fp32": ("fp32", None), "bf16": ("bf16", None), "bf16, gradients in fp32": ("bf16", "fp32")}
FAST = {("0", "fp32"), ("2, optimizer offloaded", "bf16, gradients in fp32")}
CASES = [
    pytest.param(zero, precision, id=f"{zero}-{precision}", marks=[] if (zero, precision) in FAST else pytest.mark.slow)
    for zero in ZERO
    for precision in PRECISIONS
    if (zero, precision) != ("0", "bf16, gradients in fp32")  # DeepSpeed has none
]


def infinite_loss(loss: torch.Tensor) -> torch.Tensor:
    """Infinite, with a gradient that is finite."""
    return loss + float("inf")


def infinite_gradient(loss: torch.Tensor) -> torch.Tensor:
    """Finite, with a gradient that is infinite."""
    loss.register_hook(lambda gradient: gradient * float("inf"))
    return loss


class Spoilt(DistillStep):
    """A step whose losses `spoil` has spoilt."""

    spoil: Callable[[torch.Tensor], torch.Tensor]

    def _student(self, *args):
        loss, *rest = super()._student(*args)
        return (self.spoil(loss), *rest)


def trained(world, tmp_path, zero: str, precision: str, spoil=None) -> list[torch.Tensor]:
    """Weights and optimizer after four steps, the second and third of which `spoil` has spoilt, or after the others."""
    dtype, accumulated = PRECISIONS[precision]
    settings = {"zero_optimization": ZERO[zero]}
    if accumulated:
        settings["data_types"] = {"grad_accum_dtype": accumulated}
    file = tmp_path / "engine.json"
    file.write_text(json.dumps(settings))
    cfg = load_config(ce(world, tmp_path / "out", run={"precision": dtype}, student={"deepspeed": str(file)}))
    student = engines.load_student(cfg)
    engine = engines.student_engine(cfg, student, 2, 2)
    reader, pairing = IndexedReader(cfg.data.train), Pairing(student.reader)

    def batch(first: int):
        return pairing([reader[first], reader[first + 1]])

    for number in range(4):
        window = [batch(4 * number), batch(4 * number + 2)]
        if number in (0, 3):
            DistillStep(engine, student).train(window, 10.0)
            assert engine.was_step_applied() and 0 < float(engine.get_global_grad_norm()) < 1e3
        elif spoil is not None:
            step = Spoilt(engine, student)
            step.spoil = spoil
            step.train(window, 10.0)
            assert not engine.was_step_applied()
            forget_gradients(engine)
    left = [*engines.full_weights(engine, trainable_only=True).values()]
    left += [tensor.clone() for _, tensor in own_optimizer(engine)]
    engine.destroy()
    return left


@pytest.mark.parametrize(("zero", "precision"), CASES)
def test_a_skipped_step_leaves_no_trace(world, tmp_path, zero, precision):
    expected = trained(world, tmp_path, zero, precision)
    assert all(tensor.isfinite().all() for tensor in expected) and len(expected) > 3
    for spoil in (infinite_loss, infinite_gradient):
        found = trained(world, tmp_path, zero, precision, spoil)
        assert len(found) == len(expected)
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True)), spoil.__name__
