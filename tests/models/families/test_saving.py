"""Models are saved in the family's own layout, and its own classes read them."""

import json

import pytest
import torch
from transformers import AutoProcessor, GenerationConfig, Qwen2AudioForConditionalGeneration

from caad_ds.models import auto
from tests.models.families.conftest import own_logits
from tests.tolerance import assert_close, path

POSITIONS = 200  # more than a sample has, and than a tower's window has frames
SAMPLED = {
    "do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.5, "repetition_penalty": 1.1,
    "eos_token_id": [303, 304], "pad_token_id": 304, "bos_token_id": 304,
}  # fmt: skip
# transformers reads it and refuses to write it: settings of sampling without do_sample
GREEDY = {"do_sample": False, "temperature": 0.7, "top_k": 20, "eos_token_id": 303}


def read_by_the_family(folder, dtype=torch.float32):
    model, report = Qwen2AudioForConditionalGeneration.from_pretrained(folder, output_loading_info=True, dtype=dtype)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


def settings_of(folder):
    """Return the config with parts in the dtype of the whole, as transformers sets it when loading."""
    config = json.loads((folder / "config.json").read_text())
    for part in ("text_config", "audio_config"):
        config[part].pop("dtype", None)
    return config


@pytest.mark.parametrize("settings", [{}, SAMPLED, GREEDY], ids=["none", "sampled", "greedy"])
def test_what_is_saved_is_what_the_family_reads(folder, tmp_path, samples, settings):
    lm = auto.load(folder)
    lm.module.eval()
    lm.module.generation_config = GenerationConfig(**settings)
    lm.save(tmp_path)
    assert lm.module.generation_config.to_diff_dict() == GenerationConfig(**settings).to_diff_dict()
    model = read_by_the_family(tmp_path)
    for name, weight in lm.module.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight)
    batch = lm.reader.collate(samples)
    assert torch.equal(own_logits(model, batch), own_logits(lm.module, batch))
    kept = json.loads((tmp_path / "generation_config.json").read_text())
    assert {key: kept[key] for key in settings} == settings
    assert settings_of(tmp_path) == settings_of(folder)


def test_the_processor_is_saved_with_it(folder, tmp_path, samples):
    lm = auto.load(folder)
    lm.save(tmp_path)
    made = AutoProcessor.from_pretrained(tmp_path)
    ours = lm.reader.processor
    assert type(made) is type(ours) and made.chat_template == ours.chat_template
    assert made.tokenizer.get_vocab() == ours.tokenizer.get_vocab() and made.tokenizer.eos_token == "<|im_end|>"
    assert made.feature_extractor.to_dict() == ours.feature_extractor.to_dict()
    again = auto.load(tmp_path)
    assert again.reader.identity() == lm.reader.identity()
    batch, expected = again.reader.collate(samples), lm.reader.collate(samples)
    for name in ("input_ids", "labels", "attention_mask", "audio_mask"):
        assert torch.equal(getattr(batch, name), getattr(expected, name))
    assert torch.equal(again.hidden(batch), lm.hidden(expected))


def test_what_is_saved_again_is_the_same(folder, tmp_path):
    auto.load(folder).save(tmp_path / "one")
    auto.load(tmp_path / "one").save(tmp_path / "two")
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "two").iterdir())
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert (tmp_path / "one/tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


def test_a_bf16_folder_is_loaded_in_bf16(folder, tmp_path, samples):
    auto.load(folder, torch.bfloat16).save(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    lm = auto.load(tmp_path, torch.bfloat16)
    lm.module.eval()
    assert {each.dtype for each in lm.module.parameters()} == {torch.bfloat16}
    model = read_by_the_family(tmp_path, torch.bfloat16)
    batch = lm.reader.collate(samples)
    assert batch.audio["input_features"].dtype == torch.float32
    own = own_logits(model, batch).flatten(0, 1)[batch.answer_rows]
    given = []
    with lm.module.base_model.register_forward_pre_hook(lambda *called: given.append(called[2]), with_kwargs=True):
        hidden = lm.hidden(batch)
    assert hidden.dtype == torch.bfloat16
    # Not every family casts them by itself, as this one does.
    assert [each["input_features"].dtype for each in given] == [torch.bfloat16]
    found = lm.head().logits(hidden)
    assert (found - own).abs().max() <= 8 * torch.finfo(torch.bfloat16).eps * own.abs().max()
    whole = auto.load(folder)
    whole.module.eval()
    far = (hidden.float() - whole.hidden(batch)).norm() / whole.hidden(batch).norm()
    assert 0 < far < 0.1
    # Of bf16 in fp32 it is the same weights.
    wide = auto.load(tmp_path)
    assert all(torch.equal(a, b.float()) for a, b in zip(wide.module.parameters(), lm.module.parameters(), strict=True))


def test_the_first_layers_are_saved_as_a_smaller_model(folder, tmp_path, samples):
    lm = auto.load(folder)
    lm.module.eval()
    whole = lm.hidden(lm.reader.collate(samples))
    lm.keep_first_layers(1)
    lm.save(tmp_path)
    model = read_by_the_family(tmp_path)
    assert model.config.text_config.num_hidden_layers == 1 and len(model.model.language_model.layers) == 1
    batch = lm.reader.collate(samples)
    assert torch.equal(own_logits(model, batch), own_logits(lm.module, batch))
    assert not torch.allclose(lm.hidden(batch), whole)


@pytest.mark.parametrize("encoder", [False, True])
def test_merged_adapters_are_saved_as_weights(folder, tmp_path, samples, encoder):
    lm = auto.load(folder)
    settings = {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": "all-linear", "encoder": encoder}
    lm.add_adapters(settings)
    for name, parameter in lm.module.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    lm.module.eval()
    heard = {name.split(".")[1] for name, _ in lm.module.named_parameters() if "lora_" in name}
    assert heard == {"language_model", *(["audio_tower"] if encoder else [])}
    batch = lm.reader.collate(samples)
    adapted = own_logits(lm.module, batch)
    assert (adapted - own_logits(auto.load(folder).module.eval(), batch)).abs().max() > 0.01
    lm.merge_adapters()
    assert lm.lora is None
    lm.save(tmp_path)
    found = own_logits(read_by_the_family(tmp_path), batch)
    assert torch.equal(found, own_logits(lm.module, batch))
    assert_close(found, adapted, path(lm.module, positions=POSITIONS))


def test_a_model_made_again_of_weights_is_the_same(folder, tmp_path, samples):
    lm = auto.load(folder)
    lm.module.eval()
    weights = {name: weight.clone() for name, weight in lm.named_parameters()}
    made = lm.rebuilt(weights, torch.float32)
    made.module.eval()
    batch = lm.reader.collate(samples)
    assert torch.equal(made.hidden(batch), lm.hidden(batch))
    made.save(tmp_path)
    assert torch.equal(own_logits(read_by_the_family(tmp_path), batch), own_logits(lm.module, batch))
