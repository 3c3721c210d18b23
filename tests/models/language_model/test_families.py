"""Language models whose heads, widths, positions or end tokens are not Llama's."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from caad_ds.data.batch import Batch
from caad_ds.distill.audio_dropout import drop_audio
from caad_ds.models.families.caad_speech_lm import SpeechAudioLM
from caad_ds.models.language_model.head_form import HeadForm
from caad_ds.models.language_model.llm_checks import check_llm
from caad_ds.models.language_model.load_llm import build_llm, lm_head, load_llm, position_limit
from caad_ds.models.prompts.answer_turn import end_tokens
from caad_ds.models.speech_lm.build_speech_lm import build
from caad_ds.models.speech_lm.embed import merge_audio
from caad_ds.models.speech_lm.folder import load, save
from caad_ds.models.whisper_qformer.embedded_batch import positions
from caad_ds.models.whisper_qformer.llm_forward import hidden_states
from caad_ds.models.whisper_qformer.speech_lm import SpeechLM
from caad_ds.training.export.model_folder import write_model
from caad_ds.utils.errors import UserError
from tests.models.small import POSITIONS, QUERIES
from tests.models.test_negatives import without_span
from tests.tolerance import assert_close, path
from tests.training.tiny import amplify, llama

CONNECTOR = {"num_queries": QUERIES, "qformer_layers": 1, "qformer_heads": 2}
STATE = {"model_type": "falcon_mamba", "state_size": 4, "num_hidden_layers": 2}
CONVOLUTION = {"model_type": "lfm2", "layer_types": ["conv", "full_attention"], "block_ff_dim": 64}
WINDOW = {"model_type": "mistral", "sliding_window": 16}  # an answer still sees its question and the audio
REMOVED = pytest.mark.parametrize("settings", [WINDOW, CONVOLUTION, STATE], ids=lambda s: s["model_type"])


def family(tokenizer, speech_encoder, settings: dict, **options) -> SpeechLM:
    """Return a small random model of a family, scaled so that audio changes its states."""
    torch.manual_seed(0)
    model = build(llama(2, len(tokenizer)) | settings, speech_encoder, None, **CONNECTOR, **options)
    amplify(model.connector)
    amplify(model.llm, 3.0)
    return model.eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "settings",
    [
        {"model_type": "cohere", "logit_scale": 0.0625},
        {"model_type": "granite", "logits_scaling": 8.0},
        {"model_type": "granite", "logits_scaling": 3.0},
        {"model_type": "hyperclovax", "logits_scaling": 0.3},
        {"model_type": "gemma2", "head_dim": 16, "final_logit_softcapping": 2.0},
        {"model_type": "nanochat", "final_logit_softcapping": 15.0},
        {"model_type": "phi", "partial_rotary_factor": 0.5},  # a bias
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else str(value).removeprefix("torch."),
)
def test_the_head_gives_the_models_own_logits(parts, samples, tokenizer, speech_encoder, tmp_path, settings, dtype):
    model = family(tokenizer, speech_encoder, settings)
    if model.llm.get_output_embeddings().bias is not None:
        torch.nn.init.normal_(model.llm.get_output_embeddings().bias)  # a fresh one is 0
    save(tmp_path, model, speech_encoder, tokenizer)
    model, *_ = load(tmp_path, dtype)
    model.eval()
    batch = parts.batch(samples)
    lm = SpeechAudioLM(model, speech_encoder, tokenizer)
    embedded = lm.embedded(lm.prepare(batch))
    own = model.llm(
        inputs_embeds=embedded.inputs_embeds, attention_mask=batch.attention_mask, position_ids=embedded.position_ids
    ).logits.float()
    own = own.flatten(0, 1)[batch.answer_rows]
    found = lm.head().logits(lm.hidden(lm.prepare(batch)))
    assert own.abs().max() > 0.1
    # Each logit is a sum of 32 products, and in bfloat16 rounded by itself.
    near = (found - own).abs() <= 8 * torch.finfo(dtype).eps * (own.abs() + own.abs().mean())
    assert near.all(), f"{found.norm() / own.norm():.3g} times the model's own"


@pytest.mark.parametrize(
    "settings, form",
    [
        ({}, HeadForm()),
        ({"model_type": "cohere", "logit_scale": 0.0625}, HeadForm(0.0625)),
        ({"model_type": "gemma2", "head_dim": 16, "final_logit_softcapping": 30.0}, HeadForm(1.0, 30.0)),
    ],
    ids=["llama", "cohere", "gemma2"],
)
def test_a_checkpoint_in_float16_is_one_like_others(tmp_path, settings, form):
    torch.manual_seed(0)
    build_llm(llama(2, 96) | settings, "x").half().save_pretrained(tmp_path)
    llm = load_llm(str(tmp_path), "auto")  # as import-desta does
    assert llm.dtype == torch.float16 and check_llm(llm, "x") == form


@pytest.mark.parametrize("nested", [False, True])
def test_positions_end_where_a_sample_would_change_its_batch(nested):
    """Beyond the original positions of longrope the longest sample chooses the frequencies of all."""
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
    rope |= {"factor": 4.0, "original_max_position_embeddings": 24}
    llm = build_llm(llama(2, 96) | {"rope_parameters": rope}, "x")
    amplify(llm, 4.0)
    ids = torch.arange(3, 63)[None] % 90

    @torch.no_grad()
    def first(longest: int):
        both = torch.cat([ids[:, :longest]] * 2)
        mask = torch.ones_like(both)
        mask[0, 12:] = 0
        return hidden_states(llm.eval(), llm.get_input_embeddings()(both), mask, positions(mask))[0, :12]

    config = llm.config
    if nested:
        config = SimpleNamespace(get_text_config=lambda decoder: SimpleNamespace(rope_parameters={"full": rope}))
    limit = position_limit(config)
    terms = path(llm, positions=ids.shape[1])
    assert_close(first(limit), first(12), terms)
    with pytest.raises(AssertionError, match="is allowed"):
        assert_close(first(limit + 1), first(12), terms)


@pytest.mark.parametrize(
    ("rope", "limit"),
    [
        ({"rope_type": "default"}, 24),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 24}, 96),
        ({"rope_type": "yarn", "factor": 4.0}, 96),  # transformers takes the config's limit for the original one
        ({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 12}, 24),
        ({"rope_type": "linear", "factor": 4.0, "original_max_position_embeddings": 24}, 96),
        ({"rope_type": "linear", "factor": 4.0}, 24),  # it may be stretched already
        ({"rope_type": "dynamic", "factor": 4.0}, 24),  # beyond it, frequencies depend on the batch's longest sample
    ],
)
def test_stretched_positions_are_read_to_their_end_and_whatever_shares_the_batch(rope, limit):
    settings = llama(2, 96) | {"max_position_embeddings": 24, "rope_parameters": {"rope_theta": 10_000.0, **rope}}
    llm = build_llm(settings, "x").eval()
    assert position_limit(llm.config) == limit
    ids = torch.arange(3, 3 + limit)[None] % 90

    @torch.no_grad()
    def first(longest):
        part = ids[:, :longest]
        mask = torch.ones_like(part)
        return hidden_states(llm, llm.get_input_embeddings()(part), mask, positions(mask))[0, :12]

    assert_close(first(limit), first(12), path(llm, positions=limit))


def test_a_factor_is_the_configs_number_and_not_a_measurement(tokenizer, speech_encoder):
    assert (
        lm_head(family(tokenizer, speech_encoder, {"model_type": "granite", "logits_scaling": 3.0}).llm).scale == 1 / 3
    )
    assert lm_head(family(tokenizer, speech_encoder, {}).llm).scale == 1


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"model_type": "bert", "is_decoder": True}, "type bert cannot be used: its logits are not its head's product"),
        ({"model_type": "rwkv", "attention_hidden_size": 32}, "padding on the left changes its states"),
        ({"model_type": "bart", "d_model": 32, "decoder_layers": 1}, "padding on the left changes its states"),
        ({"model_type": "ctrl", "n_embd": 32, "dff": 32}, "it does not generate from embeddings"),
        ({"model_type": "bert-generation", "is_decoder": False}, "a later token changes its states, it is not causal"),
        ({"model_type": "openai-gpt"}, "it does not generate from embeddings"),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_what_is_not_handled_is_refused_by_name(tokenizer, speech_encoder, settings, message):
    with pytest.raises(UserError, match=message) as caught:
        family(tokenizer, speech_encoder, settings)
    assert str(caught.value).startswith("student.llm: ") and "\n" not in str(caught.value)


def test_audio_goes_where_its_sample_is_whatever_the_embeddings_width(parts, samples, tokenizer, speech_encoder):
    opt = {"model_type": "opt", "ffn_dim": 64, "word_embed_proj_dim": 16, "hidden_size": 32}
    model = family(tokenizer, speech_encoder, opt)
    batch = parts.batch(samples)
    lm = SpeechAudioLM(model, speech_encoder, tokenizer)
    audio = lm.projected(lm.prepare(batch).audio)[batch.audio_index]
    other = audio.clone()
    other[0] = 5.0  # the first sample's
    heard, changed = (model.hidden_states(merge_audio(model, batch, each)) for each in (audio, other))
    first = batch.sample_of_row == 0
    assert torch.equal(heard[~first], changed[~first])
    assert (heard[first] - changed[first]).abs().max() > 0.01


@pytest.mark.parametrize("width", [16, 64])
def test_connector_outputs_of_another_width_are_refused(parts, samples, width):
    batch = parts.batch(samples)
    audio = torch.zeros(len(batch.audio_index), QUERIES, width)
    with pytest.raises(UserError, match=f"connector outputs are {width} wide, the LLM's embeddings 32"):
        merge_audio(parts.model, batch, audio)


@pytest.fixture(params=[[2, 7, 9], 7], ids=["several", "another"])
def own_ends(request, tokenizer, tmp_path):
    """A causal LM's folder with end tokens only in generation_config.json, and all tokens that end an answer."""
    from transformers import AutoConfig

    llm = AutoModelForCausalLM.from_config(AutoConfig.for_model(**llama(2, len(tokenizer))))
    llm.save_pretrained(tmp_path / "llm")
    generation = json.loads((tmp_path / "llm/generation_config.json").read_text())
    # Settings of sampling without do_sample: some published folders have them, and transformers will not write them.
    generation |= {"eos_token_id": request.param, "temperature": 0.6, "top_p": 0.9}
    (tmp_path / "llm/generation_config.json").write_text(json.dumps(generation))
    return str(tmp_path / "llm"), [2, 7, 9] if request.param != 7 else [2, 7]


def ends_of(model: SpeechLM, tokenizer) -> list[int]:
    return end_tokens(tokenizer, model.llm.generation_config.eos_token_id)


def test_end_tokens_are_kept_from_the_llms_folder_to_the_trained_models(own_ends, tokenizer, speech_encoder, tmp_path):
    folder, ends = own_ends
    model = build(folder, speech_encoder, None, keep_layers=1, **CONNECTOR)
    assert ends_of(model, tokenizer) == ends
    save(tmp_path / "saved", model, speech_encoder, tokenizer)
    again, *_ = load(tmp_path / "saved")
    student = SpeechAudioLM(again, speech_encoder, tokenizer)
    student.keep_first_layers(1)
    assert ends_of(again, tokenizer) == ends
    write_model(tmp_path / "trained", student, dict(again.named_parameters()), torch.bfloat16)
    assert ends_of(load(tmp_path / "trained")[0], tokenizer) == ends
    model.llm.generation_config.eos_token_id = list(range(len(tokenizer)))  # whatever it says first ends it
    save(tmp_path / "short", model, speech_encoder, tokenizer)
    assert len(ends_of(load(tmp_path / "short")[0], tokenizer)) == len(tokenizer)


def test_answers_that_end_at_texts_are_refused_by_that_name(own_ends):
    folder, _ = own_ends
    path = Path(folder) / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"stop_strings": ["<|user|>"]}))
    with pytest.raises(UserError, match=r"ends answers at the texts \['<\|user\|>'\] \(stop_strings\)"):
        load_llm(folder, torch.float32)


@REMOVED
@pytest.mark.parametrize("pad", ["right", "left"])
def test_text_only_removes_the_audio_whatever_the_layers(parts, samples, tokenizer, speech_encoder, settings, pad):
    """Hidden positions would still fill a window, a convolution and a state."""
    lm = SpeechAudioLM(family(tokenizer, speech_encoder, settings), speech_encoder, tokenizer)
    batch = parts.batch(samples, pad=pad)
    removed = without_span(batch)
    rows = []
    for number in range(len(samples)):
        kept = removed.attention_mask[number].bool()
        one = {"input_ids": removed.input_ids[number, kept][None], "labels": removed.labels[number, kept][None]}
        shape = one["input_ids"]
        alone = type(batch)(["a"], attention_mask=torch.ones_like(shape), audio_mask=shape < 0, **one)
        rows.append(lm.module.hidden_states(merge_audio(lm.module, alone, torch.zeros(0, QUERIES, 32))))
    expected = torch.cat(rows)
    terms = path(lm.module, speech_encoder, positions=POSITIONS)
    text_only = lm.prepare(parts.negative("text_only", batch, samples))
    assert_close(lm.hidden(text_only), expected, terms)
    heard, unheard = lm.hidden(Batch.cat([lm.prepare(batch), text_only], pad)).chunk(2)
    assert_close(unheard, expected, terms)
    dropped = drop_audio(batch, text_only, torch.tensor([False, True, False]))
    mixed = lm.hidden(lm.prepare(dropped))
    second = batch.sample_of_row == 1
    assert_close(mixed[second], expected[second], terms)
    assert_close(mixed[~second], heard[~second], terms)


def test_a_prompt_of_audio_alone_has_no_text_only(parts, samples, tokenizer, speech_encoder, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", "{% for m in messages %}{{ m['content'] }}{% endfor %}")
    bare = [samples[0], samples[2]]
    for one in bare:
        one.record["audios"][0]["text"] = ""
        one.record["messages"][0]["content"] = "<|AUDIO|>"
    with pytest.raises(UserError, match="without its audio nothing comes before an answer"):
        parts.negative("text_only", parts.batch(bare), bare)
