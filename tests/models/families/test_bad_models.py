"""What cannot be loaded or built is refused in one line that names it."""

import json
import shutil
from pathlib import Path

import pytest
import transformers
from safetensors.torch import load_file, save_file
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

from caad_ds.models import auto
from caad_ds.utils.errors import UserError
from tests.models.families.tiny import qwen2_audio as tiny_qwen2_audio
from tests.models.families.tiny.text import SECONDS

SUPPORTED = ", ".join(auto.supported())


def refused(call, *args) -> str:
    with pytest.raises(UserError) as error:
        call(*args)
    message = str(error.value)
    assert "\n" not in message and len(message) < 700
    return message


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    """A copy of the model's folder, to be broken."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.fixture
def published(copy) -> Path:
    """The same in the hub's layout, with the files that processors had before `processor_config.json`."""
    made = tiny_qwen2_audio.processor()
    (copy / "processor_config.json").unlink()
    made.feature_extractor.save_pretrained(copy)
    (copy / "chat_template.jinja").unlink()
    (copy / "chat_template.json").write_text(json.dumps({"chat_template": tiny_qwen2_audio.TEMPLATE}))
    return copy


@pytest.mark.parametrize("kind, why", [
    ("wav2vec2", "a CTC or transducer model, which has no language model"),
    ("whisper", "an encoder-decoder model, whose decoder writes no answers to questions"),
    ("voxtral_realtime", "a streaming model, whose audio has no span in a prompt"),
    ("kyutai_speech_to_text", "a streaming model, whose audio has no span in a prompt"),
    ("cohere_asr", "an encoder-decoder model, whose decoder writes no answers to questions"),
    ("phi4_multimodal", "its forward does not mask the padding of audio, so that states would depend on the batch"),
    ("gemma3n", "its vision tower is one of timm, without which nothing of it can be checked here"),
    ("fun_asr_nano", "it is untested here; docs/models.md explains how to add an audio LLM"),
    ("higgs_audio_v2", "a model that writes audio, not text"),
    ("vibevoice_asr", "its audio is encoded with random noise, at 24 kHz"),
    ("qwen2_5_omni_thinker", "a part of an Omni model (give the folder of the whole, "
     "whose config.json has a thinker_config)"),
    ("qwen3_omni_moe", "its audio tower gives an audio of less than 1 s other states beside a longer one"),
    ("llama", None),
    ("nonsense", None),
    (None, None),
])  # fmt: skip
@pytest.mark.parametrize("architecture", [False, True])
def test_models_that_are_not_supported(folder, tmp_path, kind, why, architecture):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({} if kind is None else {"model_type": kind}))
    message = refused(auto.build, file, folder) if architecture else refused(auto.load, tmp_path)
    assert message.startswith(f"{file if architecture else tmp_path}: ")
    if architecture and kind is None:
        assert "no model_type in it" in message
        return
    assert f"a model of type {kind} is not supported" in message and message.endswith(f"{SUPPORTED} (docs/models.md)")
    assert why is None or f"not supported: {why}; supported are" in message


def test_every_audio_llm_of_transformers_is_a_family_or_refused_with_a_reason():
    """Those that answer in text about audio in a prompt, by the lists of transformers and what their forward takes."""
    takes = set()
    for kind, name in MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES.items():
        made = getattr(transformers, name, None)
        modalities = getattr(made, "input_modalities", ())
        if "audio" in ((modalities,) if isinstance(modalities, str) else modalities):
            takes.add(kind)
    assert len(takes) > 15
    unexplained = [kind for kind in takes - set(auto.supported()) if not any(part in kind for part in auto.UNFIT)]
    assert unexplained == []


@pytest.mark.parametrize("layout", ["folder", "published"])
def test_the_model_loads_in_either_layout(request, layout):
    lm = auto.load(request.getfixturevalue(layout))
    assert lm.family == "qwen2_audio" and lm.reader.processor.chat_template == tiny_qwen2_audio.TEMPLATE
    assert lm.reader.longest_seconds == SECONDS


@pytest.mark.parametrize("layout, file, message", [
    ("copy", "processor_config.json", "its processor lacks a feature extractor (processor_config.json or "),
    ("copy", "tokenizer_config.json", "its processor lacks the tokenizer's settings (tokenizer_config.json)"),
    ("copy", "tokenizer.json", "its processor lacks a tokenizer (tokenizer.* or "),
    ("copy", "chat_template.jinja", "it has no chat template (chat_template.jinja)"),
    ("published", "preprocessor_config.json", "its processor lacks a feature extractor (processor_config.json or "),
    ("published", "chat_template.json", "it has no chat template (chat_template.jinja)"),
    ("copy", "model.safetensors", "no qwen2_audio model that loads (Error no file named model.safetensors"),
    ("copy", "config.json", "no model there (config.json is missing)"),
])  # fmt: skip
def test_a_missing_file(request, layout, file, message):
    broken = request.getfixturevalue(layout)
    (broken / file).unlink()
    assert refused(auto.load, broken).startswith(f"{broken}: {message}")


@pytest.mark.parametrize("file", ["processor_config.json", "tokenizer_config.json", "tokenizer.json", "config.json"])
def test_a_broken_file(copy, file):
    (copy / file).write_text('{"cut": ')
    assert refused(auto.load, copy).startswith(str(copy))


def test_a_chat_template_that_does_not_parse(copy):
    (copy / "chat_template.jinja").write_text("{% for message in messages %}")
    assert "its chat template is not valid" in refused(auto.load, copy)


def test_a_processor_of_no_audio_model(copy):
    shutil.rmtree(copy / "processor_config.json", ignore_errors=True)
    (copy / "processor_config.json").write_text(json.dumps({"processor_class": "CLIPProcessor"}))
    (copy / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "CLIPImageProcessor"}))
    assert refused(auto.load, copy).startswith(f"{copy}: ")


def test_code_that_comes_with_a_processor_is_never_run(copy, monkeypatch):
    """Not even where somebody, or what feeds a rank's input, says yes to transformers' question."""
    file = copy / "processor_config.json"
    own = {"processor_class": "Theirs", "auto_map": {"AutoProcessor": "theirs.Theirs"}}
    file.write_text(json.dumps(json.loads(file.read_text()) | own))
    (copy / "theirs.py").write_text(f"open({str(copy / 'run')!r}, 'w')\nclass Theirs: pass\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(UserError, match=f"^{copy}: no processor there that loads"):
        auto.load(copy)
    assert not (copy / "run").exists()


def test_a_tokenizer_without_the_placeholder(copy):
    state = json.loads((copy / "tokenizer.json").read_text())
    state["added_tokens"] = [each for each in state["added_tokens"] if each["content"] != "<|AUDIO|>"]
    (copy / "tokenizer.json").write_text(json.dumps(state))
    assert refused(auto.load, copy).startswith(f"{copy}: its tokenizer has no token '<|AUDIO|>'")


@pytest.mark.parametrize("part", ["multi_modal_projector.linear.bias", "lm_head.weight", "audio_tower.conv1.weight"])
def test_weights_that_are_missing(copy, part):
    file = copy / "model.safetensors"
    weights = load_file(file)
    [name] = [each for each in weights if each.endswith(part)]
    del weights[name]
    save_file(weights, file, {"format": "pt"})
    message = refused(auto.load, copy)
    assert message.startswith(f"{copy}: it lacks 1 weights of the qwen2_audio model (") and part in message


def test_layers_that_the_config_does_not_name(copy):
    """They would be left out silently."""
    file = copy / "config.json"
    values = json.loads(file.read_text())
    values["text_config"]["num_hidden_layers"] = 1
    values["text_config"].pop("layer_types", None)
    file.write_text(json.dumps(values))
    assert refused(auto.load, copy).startswith(f"{copy}: its config names fewer layers than its weights have (")


def test_a_config_without_its_language_model(copy):
    """Of which transformers would make the published size up."""
    file = copy / "config.json"
    values = json.loads(file.read_text())
    del values["text_config"]
    file.write_text(json.dumps(values))
    assert refused(auto.load, copy) == f"{file}: there is no text_config in it; give a complete folder"


@pytest.mark.parametrize("text", ['{"eos_token_id": [3', "", "[]"])
def test_a_broken_generation_config(copy, text):
    """transformers would continue without it, and answers would end differently."""
    (copy / "generation_config.json").write_text(text)
    assert refused(auto.load, copy).startswith(str(copy / "generation_config.json"))


def test_a_processor_of_another_rate(published):
    file = published / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"sampling_rate": 32_000}))
    assert "its processor takes audio at 32000 Hz" in refused(auto.load, published)


def test_a_target_of_adapters_that_no_layer_has(folder):
    settings = {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": ["q_proj", "v_prj"], "encoder": False}
    message = refused(auto.load(folder).add_adapters, settings)
    assert message.startswith("student.lora.targets ['q_proj', 'v_prj']: no layer of the LLM is named 'v_prj'")


def test_a_weight_of_another_shape(copy):
    file = copy / "config.json"
    values = json.loads(file.read_text())
    values["text_config"]["intermediate_size"] += 1
    file.write_text(json.dumps(values))
    message = refused(auto.load, copy)
    assert message.startswith(f"{copy}: its weight ") and "mlp.down_proj.weight has the shape (32, 64)" in message
    assert message.endswith("and its config asks for (32, 65); take the config of these weights")


def test_weights_that_are_cut_off(copy):
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    assert refused(auto.load, copy).startswith(f"{copy}: no qwen2_audio model that loads (")


def test_answers_that_end_at_texts(copy):
    settings = json.loads((copy / "generation_config.json").read_text())
    (copy / "generation_config.json").write_text(json.dumps(settings | {"stop_strings": ["###"]}))
    assert refused(auto.load, copy).startswith(f"{copy}: its generation_config.json ends answers at the texts ['###']")


UNFIT = [
    ({"text_config": {"hidden_act": "nonsense"}}, "no model can be built of it"),
    ({"text_config": {"model_type": "nonsense"}}, "no model can be built of it"),
    ({"text_config": {"hidden_size": "big"}}, "no model can be built of it"),
    ({"text_config": {"hidden_size": -32}}, "no model can be built of it"),
    ({"text_config": {"num_hidden_layers": -1}}, "no model can be built of it"),
    ({"text_config": "qwen2"}, "no model can be built of it"),
    ({"audio_config": {"activation_function": "nonsense"}}, "no model can be built of it"),
    ({"audio_config": {"encoder_attention_heads": 3}}, "no model can be built of it"),
    ({"audio_config": {"encoder_attention_heads": 0}}, "no model can be built of it"),
    ({"text_config": {"num_attention_heads": 3}}, "a model of type qwen2_audio cannot be used, its forward fails on"),
    ({"text_config": {"vocab_size": 100}}, "token '<|audio_eos|>' of the tokenizer "),
    ({"audio_token_index": 5}, "its forward fails on the audio of the processor "),
    ({"audio_token_index": 500}, "its forward fails on the audio of the processor "),
    ({"audio_config": {"num_mel_bins": 80}}, "its forward fails on the audio of the processor "),
    ({"audio_config": {"max_source_positions": 50}}, "its forward fails on the audio of the processor "),
]


@pytest.mark.parametrize(
    "change, message", UNFIT, ids=lambda value: json.dumps(value) if isinstance(value, dict) else ""
)
def test_an_architecture_that_does_not_fit(folder, tmp_path, change, message):
    values = tiny_qwen2_audio.architecture(tiny_qwen2_audio.processor())
    for key, value in change.items():
        values[key] = values[key] | value if isinstance(value, dict) else value
    file = tmp_path / "architecture.json"
    file.write_text(json.dumps(values))
    assert refused(auto.build, str(file), folder).startswith(f"{file}: {message}")


def test_an_architecture_of_our_own_family(folder, tmp_path):
    file = tmp_path / "architecture.json"
    file.write_text(json.dumps({"model_type": "caad_speech_lm"}))
    assert "has parts, not one architecture" in refused(auto.build, str(file), folder)


@pytest.mark.parametrize("text, message", [("{", "line 1: not valid JSON"), ("[]", "no model_type"), (None, "no such")])
def test_an_architecture_that_is_none(folder, tmp_path, text, message):
    file = tmp_path / "architecture.json"
    if text is not None:
        file.write_text(text)
    assert message in refused(auto.build, str(file), folder)


def test_a_name_that_is_no_folder_and_no_hub_id(tmp_path):
    assert refused(auto.load, tmp_path / "none").startswith(f"{tmp_path / 'none'}: no such folder")
    assert refused(auto.load, "organisation/none").startswith("organisation/none: no such folder, and")


def test_models_are_built_at_random_in_fp32(folder, tmp_path):
    values = tiny_qwen2_audio.architecture(tiny_qwen2_audio.processor(), hidden=16, layers=1)
    file = tmp_path / "architecture.json"
    values |= {"dtype": "bfloat16", "text_config": values["text_config"] | {"vocab_size": 400}}
    file.write_text(json.dumps(values))
    lm = auto.build(str(file), folder)
    assert {str(each.dtype) for each in lm.module.parameters()} == {"torch.float32"}
    assert len(lm.decoder.layers) == 1 and lm.head().weight.shape == (400, 16)


@pytest.mark.parametrize("layout", ["copy", "published"])
def test_a_model_is_built_with_a_processor_that_lies_alone(request, layout, tmp_path):
    alone = request.getfixturevalue(layout)
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        (alone / name).unlink()
    file = tmp_path / "architecture.json"
    file.write_text(json.dumps(tiny_qwen2_audio.architecture(tiny_qwen2_audio.processor(), hidden=16)))
    lm = auto.build(str(file), alone)
    assert lm.reader.processor.chat_template == tiny_qwen2_audio.TEMPLATE
    shutil.rmtree(alone)
    assert refused(auto.build, str(file), alone).startswith(f"{alone}: no such folder")
