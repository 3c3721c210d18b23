"""Models built from architecture files, and the shapes and commands of the families' configs."""

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoConfig

from caad_ds.config.reading import load_config
from caad_ds.models import auto
from caad_ds.models.architecture import read_architecture
from caad_ds.models.transformers_lm import own_config
from tests.models.families.tiny.qwen2_audio import architecture, processor
from tests.root import ROOT

CONFIGS = ROOT / "configs"
QWEN2_AUDIO, OMNI = "qwen2_audio/architectures/Qwen2-Audio", "qwen2_5_omni/architectures/Qwen2.5-Omni"
SHAPES = [
    (f"{QWEN2_AUDIO}-7B-Instruct.json", None),
    (f"{QWEN2_AUDIO}-7B-Instruct.json", 16),
    (f"{QWEN2_AUDIO}-small.json", None),
    (f"{OMNI}-7B.json", None),
    (f"{OMNI}-3B.json", None),
    (f"{OMNI}-small.json", None),
]


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
    values = read_architecture(CONFIGS / name)
    family = auto.family(values["model_type"], name).FAMILY
    config = own_config(family, AutoConfig.for_model(**values), name)
    if layers is not None:
        config.text_config.num_hidden_layers = layers
        config.text_config.layer_types = config.text_config.layer_types[:layers]
    with torch.device("meta"):
        model = getattr(transformers, family.model)(config)
    tower, projector = (model.model.get_submodule(name) for name in (family.tower, family.connector))
    llm = nn.ModuleList([model.model.language_model, model.lm_head])
    apart = {id(weight) for weight in projector.parameters()}  # it may lie inside the tower
    heard = sum(weight.numel() for weight in tower.parameters() if id(weight) not in apart)
    return [heard, *(sum(weight.numel() for weight in part.parameters()) for part in (projector, llm, model))]


@pytest.mark.parametrize(("name", "layers"), SHAPES)
def test_the_readme_has_their_sizes(name, layers):
    shown = Path(name).stem + (f", {layers} layers" if layers else "")
    text = (CONFIGS / name).parents[1].joinpath("README.md").read_text()
    assert f"| {shown} | " + " | ".join(f"{size:,}" for size in sizes(name, layers)) + " |" in text


def test_every_architecture_of_a_family_has_its_size_checked():
    folders = {name.partition("/")[0] for name, _ in SHAPES}
    files = [file for each in folders for file in (CONFIGS / each).glob("*/*.json")]
    whole = [file for file in files if json.loads(file.read_text())["model_type"] in auto.supported()]
    there = {str(file.relative_to(CONFIGS)) for file in whole}
    assert there == {name for name, _ in SHAPES}


def documented(folder: str) -> list[list[str]]:
    """The training commands in the README, split into words."""
    text = (CONFIGS / folder / "README.md").read_text().replace("\\\n", " ")
    lines = [line.partition("  #")[0].split() for line in text.splitlines() if line[:4] == "    "]
    return [words for words in lines if any(word.endswith(".yaml") and folder in word for word in words)]


@pytest.mark.parametrize("words", documented("qwen2_audio") + documented("qwen2_5_omni"), ids=" ".join)
def test_the_documented_commands_are_right(words):
    file = next(word.rpartition("=")[2] for word in words if word.endswith(".yaml"))
    overrides = [value for flag, value in pairwise(words) if flag == "--set"]
    cfg = load_config(ROOT / file, overrides)
    assert not overrides or cfg != load_config(ROOT / file)


@pytest.mark.parametrize(
    "file", ["qwen2_audio/small", "qwen2_audio/offline", "qwen2_5_omni/small", "qwen2_5_omni/offline"]
)
def test_the_architectures_that_a_config_names_are_there(file):
    cfg = load_config(CONFIGS / f"{file}.yaml")
    assert cfg.teacher is not None
    named = [path for path in (cfg.teacher.path, cfg.student.path) if str(path).endswith(".json")]
    assert named and all((ROOT / path).is_file() for path in named)
