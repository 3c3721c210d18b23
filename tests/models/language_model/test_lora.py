"""Adapters: silent at first, saved beside their weights or merged into them."""

import pytest
import torch

from caad_ds.config.schema import LoraSection
from caad_ds.models.families.caad_speech_lm import SpeechAudioLM
from caad_ds.models.speech_lm import adapters
from caad_ds.models.speech_lm.folder import load, save
from caad_ds.utils.errors import UserError
from tests.models.small import make_model

pytestmark = pytest.mark.numeric


@pytest.fixture
def adapted(tokenizer, speech_encoder):
    """A model with adapters that are trained, in a manner of speaking."""
    model = make_model(tokenizer, speech_encoder)
    adapters.add(model, LoraSection(rank=2, alpha=4.0).model_dump())
    return model


def hidden(model, parts, samples):
    lm = SpeechAudioLM(model, parts.lm.encoder, parts.reader.tokenizer)
    with torch.no_grad():
        return lm.hidden(lm.prepare(parts.batch(samples)))


def move(model):
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)


def test_fresh_adapters_change_nothing_trained_ones_do(adapted, tokenizer, speech_encoder, parts, samples):
    plain = hidden(adapted, parts, samples)
    move(adapted)
    assert (hidden(adapted, parts, samples) - plain).abs().max() > 1e-2
    assert not any("lora_" in name for name, _ in adapted.get_output_embeddings().named_parameters())


def test_merged_is_the_same_function_without_adapters(adapted, parts, samples):
    move(adapted)
    before = hidden(adapted, parts, samples)
    adapters.merge(adapted)
    assert not any("lora" in name or "base_layer" in name for name in adapted.state_dict())
    parts.close(hidden(adapted, parts, samples), before)


@pytest.mark.parametrize("merged", [False, True])
def test_a_saved_model_loads_with_its_adapters_or_merged(
    adapted, tokenizer, speech_encoder, parts, samples, tmp_path, merged
):
    move(adapted)
    if merged:
        adapters.merge(adapted)
    save(tmp_path, adapted, speech_encoder, tokenizer)
    again = load(tmp_path)[0]
    assert torch.equal(hidden(again, parts, samples), hidden(adapted, parts, samples))
    assert any("lora_A" in name for name in again.state_dict()) is not merged


def test_a_layer_that_is_not_there_is_named(tokenizer, speech_encoder):
    with pytest.raises(UserError, match=r"student\.lora\.targets .*query_proj"):
        adapters.add(make_model(tokenizer, speech_encoder), LoraSection(targets=["query_proj"]).model_dump())


@pytest.mark.parametrize("tied, name", [(False, "lm_head"), (True, "lm_head"), (True, "embed_tokens")])
def test_the_head_takes_no_adapters(tokenizer, speech_encoder, tied, name):
    """The loss takes the head's weight: its adapters would never train, and those of tied embeddings change it."""
    with pytest.raises(UserError, match=r"student\.lora\.targets .*: they name the LLM's head"):
        adapters.add(make_model(tokenizer, speech_encoder, tied), LoraSection(targets=["q_proj", name]).model_dump())
    adapters.add(
        make_model(tokenizer, speech_encoder, False), LoraSection(targets=["q_proj", "embed_tokens"]).model_dump()
    )
