"""Qwen2.5-Omni: the thinker is read from a complete checkpoint, and saved in a layout for transformers and vLLM."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoProcessor, Qwen2_5OmniForConditionalGeneration, Qwen2_5OmniThinkerForConditionalGeneration

from caad_ds.generation.decoding import Contrast, generate
from caad_ds.models import auto, negatives
from caad_ds.models.processor_reader import ProcessorReader
from caad_ds.models.prompts.answer_turn import end_tokens
from caad_ds.models.whisper_qformer.embedded_batch import positions
from caad_ds.utils.errors import UserError
from tests.models.families.conftest import NEAR, audio, sample

pytest.importorskip("torchvision", reason="its processor needs torchvision")
from tests.models.families.tiny import qwen2_5_omni as tiny

pytestmark = pytest.mark.numeric

TOP = {"thinker.model", "thinker.lm_head", "thinker.audio_tower", "thinker.visual"}  # what vLLM's loader renames


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A complete checkpoint, read-only; replaces Qwen2-Audio."""
    return tiny.write(tmp_path_factory.mktemp("omni"))


@pytest.fixture(scope="module")
def lm(folder):
    made = auto.load(folder)
    made.module.eval()
    return made


def own_logits(model, lm, batch):
    """By transformers' own class [B, S, V], which makes its positions itself."""
    given = lm.audio_inputs(batch)
    return model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, **given).logits


def names(folder) -> list[str]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return sorted(file.keys())


def settings(folder) -> dict:
    """Return the config with parts in the dtype of the whole, as transformers sets it when loading."""

    def plain(values):
        return {k: plain(v) if isinstance(v, dict) else v for k, v in values.items() if k != "dtype"}

    return plain(json.loads((folder / "config.json").read_text()))


def test_the_talker_is_neither_built_nor_reported(folder, lm):
    assert {name.partition(".")[0] for name in names(folder)} == {"thinker", "talker", "token2wav"}
    assert type(lm.module) is Qwen2_5OmniThinkerForConditionalGeneration
    weights = sum(name.startswith("thinker.") for name in names(folder))
    assert len(lm.module.state_dict()) == weights


@pytest.mark.parametrize("layers", [None, 1])
def test_it_is_saved_as_a_whole_checkpoint_without_a_talker(folder, tmp_path, samples, layers):
    lm = auto.load(folder)
    lm.module.eval()
    if layers is not None:
        lm.keep_first_layers(layers)
    lm.save(tmp_path)
    assert {name.rsplit(".", name.count(".") - 1)[0] for name in names(tmp_path)} == TOP
    assert not any("language_model" in name for name in names(tmp_path))
    config = settings(tmp_path)
    assert config["architectures"] == ["Qwen2_5OmniForConditionalGeneration"] and not config["enable_audio_output"]
    assert config["thinker_config"]["text_config"]["num_hidden_layers"] == (layers or 2)
    assert len(config["thinker_config"]["text_config"]["layer_types"]) == (layers or 2)
    whole = Qwen2_5OmniForConditionalGeneration.from_pretrained(tmp_path)
    weights = whole.state_dict()
    assert not whole.has_talker and weights.keys() == {f"thinker.{name}" for name in lm.module.state_dict()}
    assert all(torch.equal(weights[f"thinker.{name}"], weight) for name, weight in lm.module.state_dict().items())
    batch = lm.reader.collate(samples)
    expected = own_logits(lm.module, lm, batch)
    assert torch.equal(own_logits(whole.thinker.eval(), lm, batch), expected)
    alone = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert torch.equal(own_logits(alone, lm, batch), expected)
    assert type(AutoProcessor.from_pretrained(tmp_path)) is type(lm.reader.processor)
    again = auto.load(tmp_path)
    again.save(tmp_path / "again")
    assert settings(tmp_path / "again") == settings(tmp_path)


def test_the_positions_are_those_of_its_own_rule(lm, samples):
    for pad in ("right", "left"):
        batch = lm.reader.collate(samples, pad=pad)
        lengths = lm.audio_inputs(batch)["feature_attention_mask"].sum(-1)
        own, deltas = lm.module.get_rope_index(
            batch.input_ids, attention_mask=batch.attention_mask, audio_seqlens=lengths
        )
        seen = batch.attention_mask.bool()
        ours = positions(batch.attention_mask)
        assert all(torch.equal(each[seen], ours[seen]) for each in own) and not deltas.any()


def test_decoding_leaves_nothing_behind(folder, samples):
    lm = auto.load(folder)
    lm.module.eval()
    batch = lm.reader.collate(samples[:2])
    before, own = lm.hidden(batch), own_logits(lm.module, lm, batch)
    asked = lm.reader.collate(samples, pad="left", with_answer=False)
    removed = negatives.find("text_only")(asked, samples, lm.reader, None)
    for contrast, negative in ((None, None), (Contrast(1.0, "text_only"), removed)):
        generate(lm, asked, contrasted=contrast, negative=negative, max_new_tokens=3)
        assert lm.module.model.rope_deltas is not None and len(lm.module.model.rope_deltas) != len(batch.input_ids)
        assert torch.equal(lm.hidden(batch), before) and torch.equal(own_logits(lm.module, lm, batch), own)


@pytest.mark.parametrize("ends", [None, 5, [5, 6]])
def test_answers_end_where_the_turn_does_and_where_the_folder_says(folder, tmp_path, ends):
    """The published 7B model has no generation config."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    file = copy / "generation_config.json"
    file.unlink() if ends is None else file.write_text(json.dumps({"eos_token_id": ends}))
    lm = auto.load(copy)
    tokens = end_tokens(lm.reader.tokenizer, lm.stops)
    turn = lm.reader.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert tokens == sorted({turn, *([] if ends is None else np.atleast_1d(ends).tolist())})


@pytest.mark.parametrize("samples_", [480, 481, 15_599, 15_600, 15_601, 16_000, 40_000, 95_600, 95_999, 96_000])
def test_audio_of_any_length_is_what_the_processor_pads_to_its_whole_window(lm, samples_):
    """If audio ends near the end of the extracted frames, the extractor would mirror it."""
    clip = audio("a", samples_ / 16_000)
    found, padded = lm.reader.features([clip]), ProcessorReader.audio_settings(lm.reader, [clip])
    assert padded == {}
    made = lm.reader.processor(
        text=["<|AUDIO|>"], audio=[clip], audio_kwargs={"sampling_rate": 16_000}, return_tensors="pt"
    )
    frames = int(made["feature_attention_mask"].sum())
    assert found.positions == [made["input_ids"].shape[1]] and found.audio["feature_attention_mask"].sum() == frames
    torch.testing.assert_close(found.audio["input_features"][..., :frames], made["input_features"][..., :frames])
    assert found.audio["input_features"].shape[-1] <= min(made["input_features"].shape[-1], frames + 103)


def test_the_shortest_audio(lm):
    """Three frames are one position; chunks whose rest is of one to three frames are heard as they are alone."""
    with pytest.raises(UserError, match=r"shorter than the 0\.03 s"):
        lm.reader.collate([sample("a", 0.02)])
    each = [sample(f"{n}", (n + 0.5) * 0.01) for n in (3, 40, 41, 42, 79, 80, 81)]
    together = lm.hidden(lm.reader.collate(each))
    apart = torch.cat([lm.hidden(lm.reader.collate([one])) for one in each])
    assert (together - apart).abs().max() <= NEAR * apart.abs().max()


def test_adapters_of_the_tower_leave_the_projector_to_itself(folder):
    """It is inside the tower, and is trained completely."""
    lm = auto.load(folder)
    lm.add_adapters({"rank": 2, "alpha": 4, "dropout": 0.0, "targets": "all-linear", "encoder": True})
    adapted = {name.partition(".lora_")[0] for name, _ in lm.tower.named_parameters() if "lora_" in name}
    assert "proj" not in adapted and "layers.1.fc2" in adapted and len(adapted) == 12
    lm.choose_weights("lora")
    trained = {name for name, weight in lm.tower.named_parameters() if weight.requires_grad}
    assert trained == {"proj.weight", "proj.bias"} | {
        name for name in dict(lm.tower.named_parameters()) if "lora_" in name
    }


def test_adapters_are_kept_as_a_folder_of_peft(folder, tmp_path, samples):
    from peft import PeftModel

    lm = auto.load(folder)
    lm.add_adapters({"rank": 2, "alpha": 4, "dropout": 0.0, "targets": "all-linear", "encoder": True})
    for name, weight in lm.module.named_parameters():
        if "lora_" in name or name.endswith("audio_tower.proj.weight"):
            torch.nn.init.normal_(weight, std=0.1)
    lm.module.eval()
    lm.save(tmp_path)
    base = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(folder)
    adapted = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    batch = lm.reader.collate(samples)
    expected = own_logits(lm.module, lm, batch)
    assert (own_logits(adapted, lm, batch) - expected).abs().max() <= NEAR * expected.abs().max()


def test_its_parts_are_all_but_what_sees(lm):
    counted = sum(weight.numel() for part in lm.parts().values() for weight in part.parameters())
    seeing = sum(weight.numel() for weight in lm.module.model.visual.parameters())
    assert counted + seeing == sum(weight.numel() for weight in lm.module.parameters())
    assert lm.position_limit == 1024


def test_a_thinker_without_the_rest_is_refused_by_name(folder, tmp_path):
    values = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values["thinker_config"]))
    with pytest.raises(
        UserError, match="a model of type qwen2_5_omni_thinker is not supported: a part of an Omni model"
    ):
        auto.load(tmp_path)


def test_weights_of_a_thinker_that_are_missing_are_named(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(folder, tmp_path / "copy")
    weights = load_file(copy / "model.safetensors")
    del weights["thinker.lm_head.weight"]
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"it lacks 1 weights of the qwen2_5_omni model .*lm_head\.weight"):
        auto.load(copy)
