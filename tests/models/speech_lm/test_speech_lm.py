"""SpeechLM: padding, answer rows, saving and loading."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM

from caad_ds.data.audio_markers import AUDIO
from caad_ds.models.families.caad_speech_lm import SpeechAudioLM
from caad_ds.models.model_hashes import weights_hash
from caad_ds.models.speech_lm.build_speech_lm import build
from caad_ds.models.speech_lm.embed import merge_audio
from caad_ds.models.speech_lm.encoder_folder import load_encoder, save_encoder
from caad_ds.models.speech_lm.folder import load, save
from caad_ds.models.whisper_qformer.embedded_batch import positions
from caad_ds.utils.errors import UserError
from tests.models.small import make_model, sample
from tests.training.tiny import llama


def logits(lm, batch):
    return lm.hidden(lm.prepare(batch)) @ lm.head().weight.T


@pytest.mark.numeric
def test_right_and_left_padding_give_the_same_answers(parts, samples):
    right, left = parts.batch(samples), parts.batch(samples, pad="left")
    assert not torch.equal(right.input_ids, left.input_ids)
    assert torch.equal(right.targets, left.targets) and torch.equal(right.sample_of_row, left.sample_of_row)
    parts.close(logits(parts.lm, right), logits(parts.lm, left))


@pytest.mark.numeric
def test_a_sample_answers_alike_alone_and_in_a_batch(parts, samples):
    together = parts.batch(samples)
    rows = logits(parts.lm, together)
    for n, one in enumerate(samples):
        alone = logits(parts.lm, parts.batch([one]))
        parts.close(rows[together.sample_of_row == n], alone)


def test_answer_rows_predict_the_answer_and_its_end(parts, samples, tokenizer):
    batch = parts.batch(samples)
    for n, one in enumerate(samples):
        answer = batch.targets[batch.sample_of_row == n]
        assert tokenizer.decode(answer[:-1]).strip() == one.record["response"]
        assert answer[-1] == tokenizer.eos_token_id
    at = batch.answer_rows
    assert torch.equal(batch.input_ids.flatten()[at + 1], batch.targets)


@pytest.mark.numeric
def test_hidden_states_are_those_before_the_head(parts, samples):
    batch = parts.batch(samples)
    embedded = parts.lm.embedded(parts.lm.prepare(batch))
    full = parts.model.llm(
        inputs_embeds=embedded.inputs_embeds, attention_mask=batch.attention_mask, position_ids=embedded.position_ids
    ).logits
    parts.close(logits(parts.lm, batch), full.flatten(0, 1)[batch.answer_rows])


@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_model_loads_bit_equal(tokenizer, speech_encoder, parts, samples, tmp_path, tied):
    model = make_model(tokenizer, speech_encoder, tied)
    save(tmp_path, model, speech_encoder, tokenizer)
    again, encoder, words = load(tmp_path)
    ours, theirs = model.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (again.llm.lm_head.weight is again.llm.model.embed_tokens.weight) is tied
    assert ("llm.lm_head.weight" in load_file(tmp_path / "model.safetensors")) is not tied
    whole = ours | {f"encoder.{name}": weight for name, weight in speech_encoder.state_dict().items()}
    theirs = AutoModel.from_pretrained(tmp_path).state_dict()
    assert whole.keys() == theirs.keys() and all(torch.equal(whole[name], theirs[name]) for name in whole)
    batch = parts.batch(samples)
    features = batch.audio["features"]
    assert torch.equal(speech_encoder.encode(features).hidden, encoder.encode(features).hidden)
    assert torch.equal(speech_encoder.features(samples[0].waveforms), encoder.features(samples[0].waveforms))
    assert words.get_vocab() == tokenizer.get_vocab() and words.chat_template == tokenizer.chat_template


def test_the_llms_first_layers_are_kept(tmp_path, speech_encoder, tokenizer):
    whole = AutoModelForCausalLM.from_config(make_model(tokenizer, speech_encoder).config.llm_config)
    whole.save_pretrained(tmp_path)
    cut = build(
        str(tmp_path), speech_encoder, None, num_queries=4, qformer_layers=1, qformer_heads=2, keep_layers=1
    ).llm
    assert cut.config.num_hidden_layers == 1
    ours = whole.state_dict()
    assert all(torch.equal(ours[name], value) for name, value in cut.state_dict().items())
    with pytest.raises(UserError, match="keep_layers 3 exceeds its 2 layers"):
        build(str(tmp_path), speech_encoder, None, num_queries=4, qformer_layers=1, qformer_heads=2, keep_layers=3)


def test_a_models_first_layers_are_kept(parts, samples, speech_encoder, tokenizer, tmp_path):
    save(tmp_path / "whole", parts.model, speech_encoder, tokenizer)
    cut, *_ = load(tmp_path / "whole")
    SpeechAudioLM(cut, speech_encoder, tokenizer).keep_first_layers(1)
    save(tmp_path / "cut", cut, speech_encoder, tokenizer)
    again, *_ = load(tmp_path / "cut")
    whole, batch = parts.model.state_dict(), parts.batch(samples)
    assert again.state_dict().keys() == {name for name in whole if "layers.1." not in name or "connector" in name}
    assert all(torch.equal(whole[name], value) for name, value in again.state_dict().items())
    kept, restored = (logits(SpeechAudioLM(m, speech_encoder, tokenizer), batch) for m in (cut.eval(), again.eval()))
    assert torch.equal(kept, restored)
    with pytest.raises(UserError, match=r"student\.path: keep_layers 3 exceeds its 1 layers; lower it"):
        SpeechAudioLM(again, speech_encoder, tokenizer).keep_first_layers(3)


def test_layers_that_are_a_part_of_the_base_model_are_cut_too(speech_encoder, tokenizer):
    settings = {"model_type": "opt", "ffn_dim": 64, "word_embed_proj_dim": 32, "hidden_size": 32}
    shape = settings | {"vocab_size": len(tokenizer), "num_hidden_layers": 3, "num_attention_heads": 2}
    whole = build(shape, speech_encoder, None, num_queries=4, qformer_layers=1, qformer_heads=2)
    names = {name for name in whole.state_dict() if "decoder.layers.2." not in name}
    assert len(names) < len(whole.state_dict())
    SpeechAudioLM(whole, speech_encoder, tokenizer).keep_first_layers(2)
    assert whole.state_dict().keys() == names


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="no /proc/self/smaps_rollup on this system")
def test_ranks_of_a_node_share_the_weights_that_they_load(speech_encoder, tokenizer, tmp_path):
    shape = llama(2, len(tokenizer)) | {"intermediate_size": 40_000}
    large = build(shape, speech_encoder, None, num_queries=4, qformer_layers=1, qformer_heads=2)
    size = sum(p.numel() * p.itemsize for p in large.parameters()) // 1024
    save(tmp_path, large, speech_encoder, tokenizer)

    def own() -> int:
        """kB of this process that no other shares, not even through the file system's cache."""
        rollup = Path("/proc/self/smaps_rollup").read_text()
        return int(re.search(r"^Anonymous: +(\d+)", rollup, re.MULTILINE)[1])

    before = own()
    model, *_ = load(tmp_path)
    weights_hash(model)  # reads all of it
    assert size > 20_000 and own() - before < size / 2


def test_an_encoder_is_written_as_the_same_bytes_again(speech_encoder, tmp_path):
    for seed in (1, 2):
        torch.manual_seed(seed)
        save_encoder(tmp_path / str(seed), speech_encoder)
    first, second = ((tmp_path / seed / "model.safetensors").read_bytes() for seed in ("1", "2"))
    assert first == second


def test_a_shorter_window_is_the_start_of_the_long_one(speech_encoder, tmp_path, samples):
    save_encoder(tmp_path, speech_encoder)
    with pytest.raises(UserError, match="window of 2 s exceeds the encoder's 1 s"):
        load_encoder(tmp_path, [0], 2)
    with pytest.raises(UserError, match=r"taps \[2\] do not fit an encoder of 2 layers"):
        load_encoder(tmp_path, [2], 1)


def test_an_audio_longer_than_the_window_is_refused_by_its_sample(speech_encoder, parts, samples):
    long = samples[0].waveforms[0].repeat(3)[:19_200]
    with pytest.raises(ValueError, match=r"^an audio of 1\.20 s exceeds the encoder's window of 1 s$"):
        speech_encoder.features([long])
    some = [samples[0], replace(samples[2], waveforms=[long])]
    with pytest.raises(UserError, match=rf"^sample {some[1].key}: an audio of 1\.20 s exceeds .*; .*--max-seconds 1"):
        parts.batch(some)


@pytest.mark.parametrize("damage", ["no config", "no weights", "cut weights", "a weight is missing", "no tokenizer"])
def test_a_damaged_model_folder_is_named(tokenizer, speech_encoder, tmp_path, damage):
    save(tmp_path, make_model(tokenizer, speech_encoder), speech_encoder, tokenizer)
    file = tmp_path / "model.safetensors"
    if damage == "no config":
        (tmp_path / "config.json").unlink()
    elif damage == "no weights":
        file.unlink()
    elif damage == "cut weights":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "a weight is missing":
        weights = load_file(file)
        del weights["connector.queries"]
        save_file(weights, file, metadata={"format": "pt"})
    else:
        for path in tmp_path.glob("tokenizer*"):
            path.unlink()
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    message = str(caught.value)
    assert str(tmp_path) in message and "\n" not in message and "give" in message
    assert damage != "a weight is missing" or "connector.queries" in message


def test_as_many_audios_as_markers(parts):
    one = sample("a")
    one.record["messages"][0]["content"] += AUDIO
    with pytest.raises(UserError, match=r"record a: 2 .* in its messages but 1 audios"):
        parts.batch([one])
    batch = parts.batch([sample("a")])
    with pytest.raises(UserError, match="4 audio positions in the text but 8 connector outputs"):
        merge_audio(parts.model, batch, torch.zeros(2, 4, 32))


def test_answers_are_cut_and_counted(parts, tokenizer):
    prompts = parts.reader.prompts
    prompts.max_answer_tokens = 2
    batch = parts.batch([sample("a"), sample("b")])
    assert len(batch.targets) == 4 and prompts.truncated == 2


def test_positions_count_what_is_attended():
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]])
    assert positions(mask)[0, 2:].tolist() == [0, 1, 2] and positions(mask)[1, :3].tolist() == [0, 1, 2]


def test_a_model_reads_its_own_config(tokenizer, speech_encoder, tmp_path):
    model = build(
        llama(1, len(tokenizer)),
        speech_encoder,
        "openai/whisper-tiny.en",
        num_queries=4,
        qformer_layers=1,
        qformer_heads=2,
    )
    save(tmp_path, model, speech_encoder, tokenizer)
    assert "encoder.whisper.conv1.weight" in load_file(tmp_path / "model.safetensors")  # also of one that the hub has
    assert json.loads((tmp_path / "config.json").read_text())["encoder"] == "openai/whisper-tiny.en"


@pytest.mark.parametrize("name", ["data/demo/encoder-7", "./encoder", "/nowhere/encoder"])
def test_a_folder_that_is_not_there_is_reported_as_missing(name):
    with pytest.raises(UserError, match="no such folder, expected a Whisper encoder"):
        load_encoder(name, [0], 1)
