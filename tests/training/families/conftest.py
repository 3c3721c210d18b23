"""The tiny world with models of Qwen2-Audio, made once."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.models.families.tiny import qwen2_audio as tiny_qwen2_audio

RATE = 0.1
TOWER = ("dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop")


@pytest.fixture(scope="session")
def audio_world(world) -> Path:
    """The tiny world with `qwen2_audio/`, `narrow/` of half its width, and `dropping/`: that with rates of dropout."""
    weights = tiny_qwen2_audio.write(world / "qwen2_audio") / "model.safetensors"
    tensors = load_file(weights)
    tensors["language_model.lm_head.weight"] *= 20  # of fresh weights the target would be as good as uniform
    save_file(tensors, weights, {"format": "pt"})
    tiny_qwen2_audio.write(world / "narrow", hidden=16, seed=1)
    file = shutil.copytree(world / "narrow", world / "dropping") / "config.json"
    values = json.loads(file.read_text())
    values["audio_config"] |= dict.fromkeys(TOWER, RATE)
    values["text_config"]["attention_dropout"] = RATE
    file.write_text(json.dumps(values))
    return world
