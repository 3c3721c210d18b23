"""Qwen2-Audio of an architecture file: what it is built with, and the shapes and commands of configs/qwen2_audio."""

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, Qwen2AudioForConditionalGeneration

from caad_ds.config.reading import load_config
from caad_ds.models import auto
from caad_ds.models.architecture import read_architecture
from tests.models.families.tiny.qwen2_audio import architecture, processor
from tests.root import ROOT

CONFIGS = ROOT / "configs" / "qwen2_audio"
TEXT = (CONFIGS / "README.md").read_text()


@dataclass(frozen=True)
class Files:
    """An architecture file and a folder of processor files, without weights."""

    architecture: Path
    processor: Path


@pytest.fixture
def files(tmp_path) -> Files:
    made = processor()
    made.save_pretrained(tmp_path / "processor")
    (tmp_path / "processor/config.json").write_text('{"model_type": "qwen2_audio"}')
    published = architecture(made)
    published["text_config"]["torch_dtype"] = "bfloat16"  # as the published file says of its weights
    (tmp_path / "model.json").write_text(json.dumps(published))
    return Files(tmp_path / "model.json", tmp_path / "processor")


def test_random_weights_are_fp32_whatever_the_file_says(files):
    lm = auto.build(str(files.architecture), files.processor)
    assert {weight.dtype for weight in lm.module.parameters()} == {torch.float32}


def sizes(name: str, layers: int | None = None) -> list[int]:
    """Parameters of the tower, the projector, the LLM with its head, and all."""
    config = AutoConfig.for_model(**read_architecture(CONFIGS / "architectures" / name))
    if layers is not None:
        config.text_config.num_hidden_layers = layers
        config.text_config.layer_types = config.text_config.layer_types[:layers]
    with torch.device("meta"):
        model = Qwen2AudioForConditionalGeneration(config)
    body = model.model
    parts = ([body.audio_tower], [body.multi_modal_projector], [body.language_model, model.lm_head], [model])
    return [sum(weight.numel() for part in each for weight in part.parameters()) for each in parts]


@pytest.mark.parametrize(
    ("name", "layers"),
    [("Qwen2-Audio-7B-Instruct.json", None), ("Qwen2-Audio-7B-Instruct.json", 16), ("Qwen2-Audio-small.json", None)],
)
def test_the_readme_has_their_sizes(name, layers):
    shown = name.removesuffix(".json") + (f", {layers} layers" if layers else "")
    assert f"| {shown} | " + " | ".join(f"{size:,}" for size in sizes(name, layers)) + " |" in TEXT


def documented() -> list[list[str]]:
    """The training commands in the README, split into words."""
    lines = [line.partition("  #")[0].split() for line in TEXT.replace("\\\n", " ").splitlines() if line[:4] == "    "]
    return [words for words in lines if any(word.endswith(".yaml") and "qwen2_audio" in word for word in words)]


@pytest.mark.parametrize("words", documented(), ids=" ".join)
def test_the_documented_commands_are_right(words):
    file = next(word.rpartition("=")[2] for word in words if word.endswith(".yaml"))
    overrides = [value for flag, value in pairwise(words) if flag == "--set"]
    cfg = load_config(ROOT / file, overrides)
    assert not overrides or cfg != load_config(ROOT / file)


@pytest.mark.parametrize("name", ["small", "offline"])
def test_the_architectures_that_a_config_names_are_there(name):
    cfg = load_config(CONFIGS / f"{name}.yaml")
    assert cfg.teacher is not None
    named = [path for path in (cfg.teacher.path, cfg.student.path) if str(path).endswith(".json")]
    assert named and all((ROOT / path).is_file() for path in named)
