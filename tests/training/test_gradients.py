"""Two ranks with both engines give the gradients of plain PyTorch, whatever trains and wherever the teacher lies."""

import os
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from deepspeed.utils import safe_get_full_grad
from safetensors.torch import load_file, save_file

from caad_ds.config.reading import load_config
from caad_ds.config.schema import Config
from caad_ds.data.sampler import GlobalOrder
from caad_ds.data.shard_reader import IndexedReader
from caad_ds.distill.pairing import Pairing
from caad_ds.distill.student_objective import StudentObjective
from caad_ds.distill.teacher_signal import TeacherForward
from caad_ds.training.engines import load_student, load_teacher
from tests.tolerance import assert_close, training
from tests.training.launching import Run, curve
from tests.training.nvme import COMPILED, needs_nvme
from tests.training.tiny import config, shared_vocabulary, start_from

STEPS = 20
FILE = "GRADIENTS_FILE"
EPOCH = 3  # steps that see every sample once
MODES = {"connector": {}, "lora": {"lora": {"rank": 4, "alpha": 8}}, "all": {}}


def record_gradients() -> None:
    """In a rank: keep the gradients of the first optimizer step, as the engine would apply them, unclipped."""
    from caad_ds.training import trainer

    class Recording(trainer.Trainer):
        def _build_engines(self, held: ExitStack) -> None:
            super()._build_engines(held)
            step = self.engine.step

            def recorded() -> None:
                if self.engine.is_gradient_accumulation_boundary() and not Path(os.environ[FILE]).exists():
                    parameters = dict(self.engine.module.named_parameters())
                    gradients = {n: safe_get_full_grad(p) for n, p in parameters.items() if p.requires_grad}
                    torch.distributed.barrier()
                    if self.rank == 0:
                        save_file(gradients, os.environ[FILE])
                step()

            self.engine.step = recorded

    trainer.Trainer = Recording


def plain_gradients(cfg: Config) -> dict[str, torch.Tensor]:
    """The gradients of the first global batch, by PyTorch alone."""
    student, teacher = load_student(cfg), load_teacher(cfg)
    teacher.module.eval()
    reader = IndexedReader(cfg.data.train)
    samples = [reader[int(n)] for n in GlobalOrder(len(reader), cfg.optimizer.batch_size, cfg.run.seed).batch(0)]
    paired = Pairing(student.reader, teacher.reader, cfg.teacher.negative)(samples)
    with torch.no_grad():
        positive, negative = TeacherForward(teacher)(teacher.prepare(paired.teacher), teacher.prepare(paired.negative))
    module = StudentObjective(student, cfg.objective, shared=shared_vocabulary(student, teacher))
    batch = student.prepare(paired.student)
    module(batch, positive, negative, teacher.head(), len(batch.targets))[0].backward()
    return {name: p.grad for name, p in module.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("placed", ["cpu", pytest.param("nvme", marks=[needs_nvme, pytest.mark.slow])])
@pytest.mark.parametrize(
    "mode",
    [
        pytest.param("connector", marks=pytest.mark.numeric),
        pytest.param("lora", marks=pytest.mark.slow),
        pytest.param("all", marks=pytest.mark.slow),
    ],
)
def test_gradients_are_those_of_plain_pytorch_and_the_loss_falls(world, terms, tmp_path, monkeypatch, mode, placed):
    where = {"cpu": {}, "nvme": {"deepspeed": str(world / "nvme.json"), "nvme_path": str(tmp_path / "swap")}}[placed]
    # The teacher's own weights: a fresh LLM of this size hardly hears its connector, which then has nothing to learn.
    student = start_from(world / "teacher") | {"train": mode, "gradient_checkpointing": True}
    student |= MODES[mode]
    optimizer = {"steps": STEPS, "micro_batch": 2, "lr": 5e-3}
    file = config(world, tmp_path / "out", student=student, teacher=where, optimizer=optimizer)
    monkeypatch.setenv(FILE, str(tmp_path / "gradients.safetensors"))
    run = Run(file, 2, prepare=record_gradients, env={FILE: os.environ[FILE]})
    assert run.wait(COMPILED if placed == "nvme" else 400) == [0, 0], run.output()
    assert f"teacher: {placed} (" in run.output()
    expected, got = plain_gradients(load_config(file)), load_file(os.environ[FILE])
    assert got.keys() == expected.keys() and any(gradient.abs().max() > 1e-3 for gradient in expected.values())
    for name, gradient in expected.items():
        # Sizes differ much among modules; in a module the gradient of a key's bias is rounding alone.
        module = name.rpartition(".")[0]
        largest = max(g.abs().max().item() for other, g in expected.items() if other.rpartition(".")[0] == module)
        assert_close(got[name], gradient, training(terms, 1), largest)
    losses = [value for _, value in curve(tmp_path / "out", "train/loss")]
    first, last = losses[:EPOCH], losses[STEPS // EPOCH * EPOCH - EPOCH :][:EPOCH]
    assert len(losses) == STEPS and sum(last) / EPOCH < sum(first) / EPOCH - 0.02, losses
