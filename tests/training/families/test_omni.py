"""Qwen2.5-Omni in runs: two ranks with both engines under ZeRO-3 take the steps of plain PyTorch."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

from tests.training.families.qwen import foreign
from tests.training.families.test_equal_to_plain import assert_plain_losses
from tests.training.families.traces import watch_traces
from tests.training.launching import Run

pytest.importorskip("torchvision", reason="its processor needs torchvision")
from tests.models.families.tiny import qwen2_5_omni as tiny


@pytest.fixture(scope="module")
def omni_world(world):
    """The tiny world with `omni/`, a teacher, and `omni_narrow/` of half its width."""
    weights = tiny.write(world / "omni") / "model.safetensors"
    tensors = load_file(weights)
    tensors["thinker.lm_head.weight"] *= 20  # of fresh weights the target would be as good as uniform
    save_file(tensors, weights, {"format": "pt"})
    tiny.write(world / "omni_narrow", hidden=16, seed=1)
    return world


@pytest.mark.numeric
@pytest.mark.parametrize("mode", ["connector", pytest.param("lora", marks=pytest.mark.slow)])
def test_a_run_takes_the_steps_of_plain_pytorch(omni_world, tmp_path, mode):
    changes = {"teacher": {"path": str(omni_world / "omni")}, "optimizer": {"steps": 6}}
    if mode == "lora":
        changes["student"] = {"gradient_checkpointing": True, "lora": {"rank": 4, "alpha": 8, "encoder": True}}
    file = foreign(omni_world, tmp_path / "out", mode, name="omni_narrow", **changes)
    run = Run(file, 2, prepare=watch_traces)
    assert run.wait() == [0, 0], run.output()
    assert_plain_losses(file, tmp_path / "out")
    config = json.loads((tmp_path / "out/model/config.json").read_text())
    assert config["model_type"] == "qwen2_5_omni" and not config["enable_audio_output"]
    made = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained
    after, told = made(tmp_path / "out/model", output_loading_info=True)
    assert not any(told.values()), told
    before = made(omni_world / "omni_narrow").state_dict()
    changed = {name for name, weight in after.state_dict().items() if not torch.equal(weight, before[name])}
    projector = {f"model.audio_tower.proj.{part}" for part in ("weight", "bias")}
    assert changed == projector if mode == "connector" else changed > projector
    assert not any("visual" in name for name in changed)
