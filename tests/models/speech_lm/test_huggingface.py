"""A model folder run by transformers compared with our code: logits, loss, answers, weights, old folders."""

import json

import pytest
import torch
from transformers import AutoModel, AutoModelForMultimodalLM, AutoProcessor

from caad_ds.generation.decoding import generate
from caad_ds.models.families.caad_speech_lm import SpeechAudioLM
from caad_ds.models.families.caad_speech_lm import load as load_lm
from caad_ds.models.prompts.prompt_encoder import tokenization
from caad_ds.models.speech_lm import adapters, huggingface
from caad_ds.models.speech_lm.build_speech_lm import build
from caad_ds.models.speech_lm.encoder_folder import INSIDE, load_encoder
from caad_ds.models.speech_lm.folder import load, save
from caad_ds.serving.ask import MAX_NEW_TOKENS
from tests.models.small import make_model, sample
from tests.root import ROOT
from tests.tolerance import assert_close, path
from tests.training.tiny import amplify, llama

OLD = ROOT / "examples/demo/teacher_model"  # written when the encoder had a folder of its own
ANSWER = 8  # tokens


@pytest.fixture
def folder(parts, tmp_path):
    """The folder of the small model."""
    parts.lm.save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def whole(folder):
    return AutoModelForMultimodalLM.from_pretrained(folder).eval()


def given(batch, lm):
    """A batch as transformers' forward takes it: a row of features for each audio in the text."""
    audio = lm.module.config.audio_token_id or len(lm.reader.tokenizer)
    ids = batch.input_ids.masked_fill(batch.audio_mask, audio)
    features = batch.audio["features"][batch.audio_index] if len(batch.audio_index) else None
    return {"input_ids": ids, "attention_mask": batch.attention_mask, "input_features": features}


@pytest.mark.numeric
@pytest.mark.parametrize("pad", ["left", "right"])
def test_logits_and_loss_are_our_own(parts, samples, whole, pad):
    batch = parts.batch(samples, pad=pad)
    labels = batch.labels
    found = whole(**given(batch, parts.lm), labels=labels)
    hidden = parts.hidden(batch)
    parts.close(found.logits.flatten(0, 1)[batch.answer_rows], hidden @ parts.lm.head().weight.T)
    assert torch.equal(whole(**given(batch, parts.lm), labels=labels, return_dict=False)[1], found.logits)
    ce = torch.nn.functional.cross_entropy((hidden @ parts.lm.head().weight.T).double(), batch.targets)
    assert (labels == -100).any()
    with_audio = labels.masked_fill(batch.audio_mask, whole.config.audio_token_id)
    assert whole(**given(batch, parts.lm), labels=with_audio).loss == found.loss
    assert_close(found.loss, ce.float(), path(parts.model, positions=100))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_loss_trains_the_connector_and_not_the_encoder(parts, samples, whole, checkpointing):
    batch = parts.batch(samples)
    if checkpointing:
        whole.activation_checkpointing_enable()
    with torch.enable_grad():
        whole.train()(**given(batch, parts.lm), labels=batch.labels).loss.backward()
    assert not whole.encoder.training and whole.connector.training
    assert whole.connector.queries.grad.abs().max() > 0
    assert all(weight.grad is None for weight in whole.encoder.parameters())
    half = whole(**given(batch, parts.lm), labels=batch.labels, num_items_in_batch=2 * (batch.labels != -100).sum())
    assert half.loss * 2 == pytest.approx(whole(**given(batch, parts.lm), labels=batch.labels).loss)


def test_answers_of_a_left_padded_batch_are_our_own(parts, samples, whole):
    batch = parts.batch(samples, pad="left", with_answer=False)
    ours = generate(parts.lm, parts.lm.prepare(batch), max_new_tokens=ANSWER)
    asked = given(batch, parts.lm)
    found = whole.generate(**asked, max_new_tokens=ANSWER)
    assert torch.equal(found, torch.cat([asked["input_ids"], ours], 1))
    more = whole.generate(**asked, max_new_tokens=3, num_beams=2, num_return_sequences=2, return_dict_in_generate=True)
    assert torch.equal(more.sequences[:, : batch.input_ids.shape[1]], asked["input_ids"].repeat_interleave(2, 0))


def test_a_prompt_without_audio(parts, whole):
    silent = sample("a", audios=0)
    silent.record["audios"] = []
    batch = parts.batch([silent], pad="left", with_answer=False)
    ours = generate(parts.lm, parts.lm.prepare(batch), max_new_tokens=ANSWER)
    asked = given(batch, parts.lm)
    assert asked["input_features"] is None
    assert torch.equal(whole.generate(**asked, max_new_tokens=ANSWER)[:, asked["input_ids"].shape[1] :], ours)


def test_audio_that_does_not_fit_the_prompt_is_refused(parts, samples, whole):
    asked = given(parts.batch(samples), parts.lm)
    features = asked.pop("input_features")
    with pytest.raises(ValueError, match="the prompt has places for audio; give input_features as well"):
        whole(**asked)
    with pytest.raises(ValueError, match="16 audio positions in the text but 12 connector outputs"):
        whole(**asked, input_features=features[:3])


def test_a_step_with_a_cache_says_what_a_whole_forward_says(parts, samples, whole):
    asked = given(parts.batch(samples, pad="left", with_answer=False), parts.lm)
    first = whole(**asked, use_cache=True)
    word = first.logits[:, -1:].argmax(-1)
    mask = torch.cat([asked["attention_mask"], torch.ones_like(word)], 1)
    step = whole(input_ids=word, attention_mask=mask, past_key_values=first.past_key_values)
    ids = torch.cat([asked["input_ids"], word], 1)
    again = whole(input_ids=ids, attention_mask=mask, input_features=asked["input_features"])
    parts.close(step.logits[:, -1], again.logits[:, -1])


def test_what_transformers_answers_by(folder, parts):
    """Greedily, to the end tokens of the tokenizer and the checkpoint, and no longer than `caad-ds ask` by default."""
    values = json.loads((folder / "generation_config.json").read_text())
    assert values["max_new_tokens"] == MAX_NEW_TOKENS and values["do_sample"] is False
    assert values["eos_token_id"] == parts.reader.tokenizer.eos_token_id == values["pad_token_id"]
    parts.model.llm.generation_config.eos_token_id = [5, 7]
    ends = huggingface.generation_of(parts.model, parts.reader.tokenizer, 100).eos_token_id
    assert ends == sorted({5, 7, parts.reader.tokenizer.eos_token_id})
    assert huggingface.generation_of(parts.model, parts.reader.tokenizer, 9).suppress_tokens == [9]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_transformers_saved_again_in_shards_is_the_same(folder, parts, tmp_path, dtype):
    """Also to us, and its encoder in float32."""
    whole = AutoModelForMultimodalLM.from_pretrained(folder, dtype=dtype)
    assert whole.dtype == dtype and whole.encoder.whisper.conv1.weight.dtype == torch.float32
    whole.save_pretrained(tmp_path / "again", max_shard_size="50KB")
    assert len(list((tmp_path / "again").glob("model-*.safetensors"))) > 2
    AutoProcessor.from_pretrained(folder).save_pretrained(tmp_path / "again")
    ours, speech_encoder, words = load(tmp_path / "again", dtype)
    assert tokenization(words) == tokenization(parts.reader.tokenizer)
    state = whole.state_dict()
    assert all(torch.equal(state[name], weight) for name, weight in ours.state_dict().items())
    assert all(torch.equal(state[f"encoder.{name}"], weight) for name, weight in speech_encoder.state_dict().items())


def test_a_folder_written_in_shards_is_the_same_model(folder, parts, samples, whole, tmp_path, monkeypatch):
    """The encoder's weights are in several of them."""
    monkeypatch.setattr(huggingface, "MAX_SHARD_SIZE", "50KB")
    sharded = tmp_path / "sharded"
    parts.lm.save(sharded)
    files = json.loads((sharded / "model.safetensors.index.json").read_text())["weight_map"]
    assert set(files.values()) == {file.name for file in sharded.glob("*.safetensors")} and len(set(files.values())) > 2
    assert len({file for name, file in files.items() if name.startswith(INSIDE)}) > 1
    again = AutoModel.from_pretrained(sharded).eval()
    states = whole.state_dict(), again.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    asked = given(parts.batch(samples), parts.lm)
    assert torch.equal(again(**asked).logits, whole(**asked).logits)
    ours = load_lm(sharded, torch.float32)
    assert all(torch.equal(weight, ours.encoder.state_dict()[n]) for n, weight in parts.lm.encoder.state_dict().items())


@pytest.mark.parametrize("kind", [".", "twin"])
def test_a_folder_of_before_loads_and_is_the_same_in_the_new_form(tmp_path, kind):
    old = load_lm(OLD / kind, torch.float32)
    assert old.module.config.encoder_config is None and (OLD / "encoder/config.json").is_file()
    old.save(tmp_path)
    new = load_lm(tmp_path, torch.float32)
    for ours, theirs in ((old.module, new.module), (old.encoder, new.encoder)):
        states = ours.state_dict(), theirs.state_dict()
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert old.reader.identity() == new.reader.identity() and old.shares_encoding(new)
    with pytest.raises(ValueError, match="which an earlier version of caad-ds wrote; write it again"):
        AutoModelForMultimodalLM.from_pretrained(OLD / kind)


def test_the_encoder_of_a_model_folder_is_an_encoder_to_train_with(folder, speech_encoder):
    again = load_encoder(folder, [1], 1)
    assert again.taps == [1]
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in speech_encoder.state_dict().items())


def test_adapters_that_are_kept_load_where_they_can_be_added(parts, tmp_path):
    """Here they can; without this package they are refused (tests/models/whisper_qformer/test_alone.py)."""
    adapters.add(parts.model, {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": "all-linear", "encoder": False})
    parts.lm.save(tmp_path)
    state = AutoModelForMultimodalLM.from_pretrained(tmp_path).state_dict()
    kept = {name for name in state if "lora_" in name}
    assert kept and all(torch.equal(state[name], weight) for name, weight in parts.model.state_dict().items())


def test_a_folder_whose_prompts_transformers_would_write_otherwise_has_no_processor(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface, "reads_alike", lambda *_: False)
    with pytest.warns(UserWarning, match="writes other prompts through transformers' processors than in training"):
        parts.lm.save(tmp_path)
    assert not (tmp_path / "processor_config.json").exists()
    load(tmp_path)


def test_desta_connectors_read_before_the_final_norm(tokenizer, speech_encoder, samples, tmp_path):
    speech_encoder.final_norm = False
    model = build(
        llama(2, len(tokenizer)),
        speech_encoder,
        None,
        num_queries=4,
        qformer_layers=1,
        qformer_heads=2,
        connector="desta",
    )
    amplify(model.connector)
    lm = SpeechAudioLM(model.eval(), speech_encoder, tokenizer)
    lm.save(tmp_path)
    whole = AutoModelForMultimodalLM.from_pretrained(tmp_path).eval()
    batch = lm.reader.collate(samples)
    found = whole(**given(batch, lm)).logits.flatten(0, 1)[batch.answer_rows]
    ours = lm.hidden(lm.prepare(batch)) @ lm.head().weight.T
    assert_close(found, ours, path(model, speech_encoder, positions=100))
    whole.encoder.final_norm = True
    assert (whole(**given(batch, lm)).logits.flatten(0, 1)[batch.answer_rows] - ours).abs().max() > 1e-3


def test_tied_and_untied_heads(tokenizer, speech_encoder, tmp_path):
    for tied in (True, False):
        save(tmp_path / str(tied), make_model(tokenizer, speech_encoder, tied), speech_encoder, tokenizer)
        whole = AutoModelForMultimodalLM.from_pretrained(tmp_path / str(tied))
        assert (whole.get_output_embeddings().weight is whole.get_input_embeddings().weight) is tied
        assert whole.config.get_text_config().model_type == "llama"
