"""Particularities of Granite Speech: padded audio, the factor of its logits, published adapters, BatchNorm."""

import json
import shutil
from functools import wraps
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GraniteForCausalLM, GraniteSpeechForConditionalGeneration

from caad_ds.generation.decoding import Contrast, generate
from caad_ds.models import auto
from caad_ds.models.families.granite_speech import WINDOW
from caad_ds.models.language_model.llm_checks import evaluation_mode
from caad_ds.utils.errors import UserError
from tests.models.families.conftest import audio, own_logits, sample
from tests.models.families.tiny import granite_speech as tiny

pytest.importorskip("torchaudio")
pytestmark = pytest.mark.numeric

SCALING = 8.0
ALPHA, SHARE = 10.0, 0.8
FORWARD = GraniteSpeechForConditionalGeneration.forward
ADAPTERS = ("adapter_config.json", "adapter_model.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("granite_speech"))


@pytest.fixture(scope="module")
def lm(folder):
    return loaded(folder)


def loaded(folder, dtype=torch.float32):
    """The model in evaluation."""
    made = auto.load(folder, dtype)
    made.module.eval()
    return made


def own_class(folder):
    """The model by transformers' own class, as it is."""
    return GraniteSpeechForConditionalGeneration.from_pretrained(folder).eval()


@pytest.fixture
def adapted(folder, tmp_path) -> Path:
    """Save the model with adapters, under the names of the published files."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    settings = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    out = shutil.copytree(folder, tmp_path / "adapted")
    get_peft_model(own_class(folder), settings).save_pretrained(out)
    weights = load_file(out / ADAPTERS[1])
    published = {
        name.replace("model.model.language_model", "model.language_model.model"): w for name, w in weights.items()
    }
    assert all(name.startswith("base_model.model.language_model.model.layers.") for name in published)
    save_file(published, out / ADAPTERS[1], {"format": "pt"})
    configured(out, has_lora_adapter=True)
    return out


def configured(folder, **values) -> Path:
    """The folder with these settings in its config.json."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return folder


# -- audio of one length ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.02, 0.1, 0.31, 0.5, 1.234, 2.99, 3.0])
def test_the_features_are_the_processors_own_beside_an_audio_of_the_full_length(lm, seconds):
    clip = audio("a", seconds)
    batch = lm.reader.collate([sample("x", seconds)])
    whole = np.ones(tiny.SECONDS * 16_000, np.float32)
    own = lm.reader.processor(text=["<|audio|>"] * 2, audio=[clip, whole], return_tensors="pt")
    found = lm.reader.features([clip])
    torch.testing.assert_close(found.audio["input_features"], own["input_features"][:1])
    assert torch.equal(found.audio["input_features_mask"], own["input_features_mask"][:1])
    assert [int(batch.audio_mask.sum())] == found.positions == own["input_features_mask"][:1].sum(1).tolist()


def test_a_short_clip_differs_from_the_published_use_without_padding(lm):
    """They differ in the last block of attention and through the convolutions, and not at all at the full length."""
    far = {}
    for seconds in (1.0, 2.0, 3.0):
        each = sample("x", seconds)
        batch = lm.reader.collate([each])
        alone = lm.reader.processor(text=["<|audio|>"], audio=each.waveforms, return_tensors="pt")
        mask = alone["input_features_mask"]
        assert int(mask.sum()) == int(batch.audio_mask.sum())
        features = lm.module.model.get_audio_features
        bare = features(alone["input_features"]).pooler_output[mask]
        padded = features(batch.audio["input_features"]).pooler_output[batch.audio["input_features_mask"]]
        far[seconds] = ((padded - bare).norm() / bare.norm()).item()
    assert far[3.0] < 1e-6 and 1e-3 < far[1.0] < 0.3 and 1e-3 < far[2.0] < 0.3, far


def test_the_window_is_the_extractors_setting_and_is_saved(folder, tmp_path):
    lm = loaded(folder)
    assert lm.reader.longest_seconds == tiny.SECONDS
    lm.save(tmp_path)
    assert json.loads((tmp_path / "processor_config.json").read_text())["audio_processor"][WINDOW] == tiny.SECONDS
    file = tmp_path / "processor_config.json"
    values = json.loads(file.read_text())
    del values["audio_processor"][WINDOW]
    file.write_text(json.dumps(values))
    whole = loaded(tmp_path)
    assert whole.reader.longest_seconds == 30
    [count] = whole.reader.features([audio("a", 30.0)]).positions
    assert count == 300
    assert whole.hidden(whole.reader.collate([sample("x", 30.0), sample("y", 0.3)])).isfinite().all()


def test_an_audio_without_a_position_is_refused(lm):
    with pytest.raises(UserError, match=r"^sample short: an audio of 0.019 s is shorter than the 0.02 s"):
        lm.reader.collate([sample("short", 0.019)])


def test_settings_that_transformers_would_not_read_are_refused(folder, tmp_path):
    out = shutil.copytree(folder, tmp_path / "mels")
    file = out / "processor_config.json"
    values = json.loads(file.read_text())
    values["audio_processor"]["melspec_kwargs"]["n_fft"] = 1024
    file.write_text(json.dumps(values))
    with pytest.raises(UserError, match=f"^{out}: transformers does not read n_fft 1024 of its melspec_kwargs"):
        auto.load(out)


# -- the factor of its logits -----------------------------------------------------------------------------------------


@pytest.fixture(params=["left out", "applied"])
def either(request, folder, monkeypatch):
    """The model under a release of transformers whose class leaves the factor out, or applies it."""
    if request.param == "applied":

        @wraps(FORWARD)
        def scaled(self, *args, **kwargs):
            out = FORWARD(self, *args, **kwargs)
            out.logits = out.logits / SCALING
            return out

        monkeypatch.setattr(GraniteSpeechForConditionalGeneration, "forward", scaled)
    return loaded(folder)


def test_logits_are_those_of_granites_own_causal_lm(either):
    """A class whose forward divides by logits_scaling gives, with the same language model, the logits of our head."""
    text = GraniteForCausalLM(either.module.config.text_config)
    text.model, text.lm_head.weight = either.module.model.language_model, either.module.lm_head.weight
    batch = either.reader.collate([sample("d", question="Is the tone low?", answer="low")])
    expected = text(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    with evaluation_mode(either.module):
        own = own_logits(either.module, batch.with_audio({}, batch.audio_index, batch.audio_positions))
        found = either.head().logits(either.hidden(batch))
    assert either.head().scale == 1 / SCALING
    assert (own - expected).abs().max() <= 1e-5 * expected.abs().max()
    expected = expected.flatten(0, 1)[batch.answer_rows]
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_generate_sees_the_heads_logits(either):
    samples = [sample("a", 0.5), sample("d", question="Is the tone low?")]
    batch = either.reader.collate(samples, pad="left", with_answer=False)
    said = either.module.generate(
        **either.generation_inputs(batch), max_new_tokens=1, output_logits=True, return_dict_in_generate=True
    )
    answered = either.reader.collate(samples, pad="left", answers=[[0], [0]])
    expected = either.head().logits(either.hidden(answered))
    assert (said.logits[0] - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_plausibility_is_of_the_heads_logits(either):
    """Of a factor that was left out, fewer tokens would be plausible, and others be said."""
    samples = [sample(f"clip {n}", 0.5 + 0.1 * n) for n in range(6)]
    contrast = Contrast(ALPHA, "zero_mel", plausibility=SHARE)
    batch = either.reader.collate(samples, pad="left", with_answer=False)
    negative = batch.with_audio(
        {n: v * 0 if v.is_floating_point() else v for n, v in batch.audio.items()},
        batch.audio_index, batch.audio_positions,
    )  # fmt: skip
    found = generate(either, batch, max_new_tokens=1, min_new_tokens=1, contrasted=contrast, negative=negative)
    answered = either.reader.collate(samples, pad="left", answers=[[0]] * len(samples))
    silent = answered.with_audio(negative.audio, answered.audio_index, answered.audio_positions)
    positive, second = (either.head().logits(either.hidden(each)) for each in (answered, silent))
    ends = [either.reader.tokenizer.eos_token_id, either.reader.prompts.placeholder]

    def said(factor):
        z, other = factor * positive, factor * second
        combined = (1 + ALPHA) * z - ALPHA * other
        combined[z < z.amax(-1, keepdim=True) + np.log(SHARE)] = -torch.inf
        combined[:, ends] = -torch.inf
        return combined.argmax(-1)

    assert found[:, 0].tolist() == said(1).tolist()
    assert said(1).tolist() != said(SCALING).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_made_again_keeps_the_factor(either, tmp_path, dtype):
    made = either.rebuilt({name: weight.clone() for name, weight in either.named_parameters()}, dtype)
    made.module.eval()
    assert made.head().scale == 1 / SCALING
    batch = made.reader.collate([sample("a", 0.5)])
    if dtype == torch.float32:
        assert torch.equal(own_logits(made.module, batch), own_logits(either.module, batch))
    made.save(tmp_path)
    again = loaded(tmp_path, dtype)
    assert again.head().scale == 1 / SCALING and again.module.config.text_config.logits_scaling == SCALING


def test_logits_that_are_neither_are_refused(folder, monkeypatch):
    def scaled(self, *args, **kwargs):
        out = FORWARD(self, *args, **kwargs)
        out.logits = out.logits * 0.3
        return out

    monkeypatch.setattr(GraniteSpeechForConditionalGeneration, "forward", scaled)
    with pytest.raises(UserError, match=f"^{folder}: its logits are 0.3 times .* its config says 0.125; take another"):
        auto.load(folder)


# -- published adapters -----------------------------------------------------------------------------------------------


def test_published_adapters_are_merged_and_saved_as_weights(adapted, folder, lm, tmp_path):
    """Its own class has them on where there is audio."""
    own = own_class(adapted)
    assert own._hf_peft_config_loaded
    merged = loaded(adapted)
    assert not any("lora_" in name for name in merged.module.state_dict())
    batch = lm.reader.collate([sample("a", 0.5), sample("b", 1.0)])
    expected = own_logits(own, batch) / SCALING
    found = own_logits(merged.module, batch)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (found - own_logits(lm.module, batch)).abs().max() > 1e-2 * expected.abs().max()
    merged.save(tmp_path / "saved")
    assert not any((tmp_path / "saved" / name).exists() for name in ADAPTERS)
    assert json.loads((tmp_path / "saved/config.json").read_text())["has_lora_adapter"] is False
    again = own_class(tmp_path / "saved")
    assert torch.equal(own_logits(again, batch) / SCALING, found)
    assert torch.equal(own_logits(loaded(tmp_path / "saved").module, batch), found)


def test_a_merged_model_takes_fresh_adapters(adapted):
    lm = loaded(adapted)
    batch = lm.reader.collate([sample("a", 0.5)])
    before = own_logits(lm.module, batch)
    lm.add_adapters({"rank": 2, "alpha": 4, "dropout": 0.0, "targets": "all-linear", "encoder": False})
    assert torch.equal(own_logits(lm.module, batch), before)
    lm.choose_weights("all")
    assert all(weight.requires_grad for name, weight in lm.decoder.named_parameters() if "lora_" not in name)


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_that_are_named_and_not_there_are_refused(adapted, name):
    (adapted / name).unlink()
    with pytest.raises(UserError, match=f"^{adapted}: its config says has_lora_adapter, but"):
        auto.load(adapted)


def test_adapters_beside_a_config_that_says_there_are_none_are_refused(adapted):
    """They may be merged already: to merge them twice would go unnoticed."""
    configured(adapted, has_lora_adapter=False)
    with pytest.raises(UserError, match=f"^{adapted}: its config says that it has no adapters"):
        loaded(adapted)


def test_adapters_do_not_stand_on_weights_that_others_were_merged_into(adapted, tmp_path):
    lm = loaded(adapted)
    lm.add_adapters({"rank": 2, "alpha": 4, "dropout": 0.0, "targets": "all-linear", "encoder": False})
    with pytest.raises(UserError, match=r"^--keep-adapters: .* had adapters of its own, which were merged"):
        lm.save(tmp_path / "kept")


def test_adapters_that_lack_a_weight_are_refused(adapted):
    weights = load_file(adapted / ADAPTERS[1])
    weights.pop(sorted(weights)[0])
    save_file(weights, adapted / ADAPTERS[1], {"format": "pt"})
    with pytest.raises(UserError, match=f"^{adapted}: 1 weights of its adapters are missing"):
        auto.load(adapted)


def test_a_weight_that_is_missing_beside_adapters_is_refused(adapted):
    """from_pretrained reports only the adapters' weights."""
    weights = load_file(adapted / "model.safetensors")
    weights.pop("projector.linear.weight")
    save_file(weights, adapted / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=rf"^{adapted}: it lacks 1 weights of the granite_speech model"):
        auto.load(adapted)


# -- what trains ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mode", ["connector", "lora", "all"])
@pytest.mark.parametrize("random", [False, True])
def test_the_statistics_of_its_tower_never_change(folder, dtype, mode, random):
    lm = auto.load(folder, dtype)
    lm.random = random
    if mode == "lora":
        lm.add_adapters({"rank": 2, "alpha": 4, "dropout": 0.0, "targets": "all-linear", "encoder": True})
    lm.choose_weights(mode)
    lm.module.train()
    lm.freeze_running_parts()
    before = {name: buffer.clone() for name, buffer in lm.module.named_buffers()}
    assert sum("running_" in name for name in before) == 4
    with torch.enable_grad():
        hidden, path = lm.hidden_and_path(lm.reader.collate([sample("a", 0.5)]))
        (hidden.float().square().sum() + 0 * path).backward()
    assert all(torch.equal(buffer, before[name]) for name, buffer in lm.module.named_buffers())
    assert all(weight.grad is not None for weight in lm.connector.parameters())


def test_the_decoder_alone_recomputes_its_activations(folder):
    lm = auto.load(folder)
    lm.checkpoint_activations()
    found = {name for name, part in lm.module.named_modules() if getattr(part, "gradient_checkpointing", False)}
    assert {"model.language_model.layers.0", "model.language_model.layers.1"} <= found
    assert not any("encoder" in name or "projector" in name for name in found)
