"""The shapes, the commands and the sizes of configs/voxtral."""

from itertools import pairwise

import pytest
import torch
from transformers import AutoConfig, VoxtralConfig, VoxtralForConditionalGeneration

from caad_ds.config.reading import load_config
from caad_ds.models.architecture import read_architecture
from tests.root import ROOT

CONFIGS = ROOT / "configs" / "voxtral"
TEXT = (CONFIGS / "README.md").read_text()
MINI = "Voxtral-Mini-3B-2507"


def shape(name: str):
    return AutoConfig.for_model(**read_architecture(CONFIGS / "architectures" / f"{name}.json"))


def test_the_published_shape_is_that_of_transformers():
    """Of whose configuration class it is the checkpoint."""
    found, own = shape(MINI).to_dict(), VoxtralConfig().to_dict()
    for part in ("audio_config", "text_config"):
        assert {name: found[part].get(name) for name in own[part]} == own[part]
    assert found["audio_token_id"] == 24


@pytest.mark.parametrize(("name", "layers"), [(MINI, None), (MINI, 15), ("Voxtral-narrow", None)])
def test_the_readme_has_their_sizes(name, layers):
    config = shape(name)
    config.text_config.num_hidden_layers = layers or config.text_config.num_hidden_layers
    with torch.device("meta"):
        model = VoxtralForConditionalGeneration(config)
    body = model.model
    parts = ([body.audio_tower], [body.multi_modal_projector], [body.language_model, model.lm_head], [model])
    sizes = [sum(weight.numel() for part in each for weight in part.parameters()) for each in parts]
    shown = name + (f", {layers} layers" if layers else "")
    assert f"| {shown} | " + " | ".join(f"{size:,}" for size in sizes) + " |" in TEXT


def documented() -> list[list[str]]:
    """The training commands in the README, split into words."""
    lines = [line.partition("  #")[0].split() for line in TEXT.replace("\\\n", " ").splitlines() if line[:4] == "    "]
    return [words for words in lines if any(word.endswith(".yaml") and "voxtral" in word for word in words)]


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
