"""Granite Speech under ZeRO-3 on two ranks: the steps of plain PyTorch, and a tower whose statistics stay."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import GraniteSpeechForConditionalGeneration

from tests.models.families.tiny import granite_speech as tiny
from tests.training.families.test_equal_to_plain import assert_plain_losses
from tests.training.families.traces import watch_traces
from tests.training.launching import Run
from tests.training.tiny import config, start_from

pytest.importorskip("torchaudio")
LORA = {"lora": {"rank": 4, "alpha": 8, "encoder": True}, "gradient_checkpointing": True}


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "more"), [("connector", {}), ("lora", LORA), ("all", {})])
def test_steps_are_those_of_plain_pytorch(world, tmp_path, mode, more):
    teacher = tiny.write(tmp_path / "teacher")
    student = tiny.write(tmp_path / "student", hidden=16, seed=1)
    sections = {
        "student": start_from(student) | {"train": mode} | more,
        "teacher": {"path": str(teacher)},
        "optimizer": {"steps": 8, "micro_batch": 2, "lr": 5e-3},
    }
    file = config(world, tmp_path / "out", **sections)
    run = Run(file, 2, prepare=watch_traces)
    assert run.wait() == [0, 0], run.output()
    assert_plain_losses(file, tmp_path / "out")
    _, info = GraniteSpeechForConditionalGeneration.from_pretrained(tmp_path / "out/model", output_loading_info=True)
    assert not any(info.values()), info
    before, after = (load_file(each / "model.safetensors") for each in (student, tmp_path / "out/model"))
    changed = {name for name, value in after.items() if not torch.equal(before[name], value)}
    assert "projector.query" in changed
    assert not any("batch_norm.running" in name or "batches_tracked" in name for name in changed)
    assert any(name.startswith("encoder.") for name in changed) == (mode == "lora")
