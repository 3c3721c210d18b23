"""What a SpeechReader makes of samples: the same tokens and features as ever, refusals by name, constants once."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from caad_ds.data.batch import IGNORE, len_of
from caad_ds.models.families.caad_speech_lm import SpeechAudioLM, SpeechReader
from caad_ds.models.prompts.prompt_encoder import PromptEncoder
from caad_ds.models.speech_lm.folder import load
from caad_ds.utils.errors import UserError
from tests.models.small import QUERIES, make_model, sample

SHORT, LONG = (np.full(samples, 0.1, np.float32) for samples in (1_599, 16_001))


@pytest.mark.parametrize("options", [{}, {"pad": "left"}, {"pad": "left", "with_answer": False}])
def test_a_batch_is_the_prompts_tokens_with_the_encoders_features(parts, samples, speech_encoder, tokenizer, options):
    batch = parts.reader.collate(samples, **options)
    tokens = PromptEncoder(tokenizer, QUERIES).batch(samples, **options)
    for name in ("input_ids", "attention_mask", "audio_mask", "labels"):
        assert torch.equal(getattr(batch, name), getattr(tokens, name))
    waveforms = [waveform for one in samples for waveform in one.waveforms]
    assert set(batch.audio) == {"features"} and torch.equal(batch.audio["features"], speech_encoder.features(waveforms))
    assert batch.keys == ["a", "b", "c"] and batch.audio_index.tolist() == [0, 1, 2, 3]
    assert batch.audio_sample.tolist() == [0, 1, 1, 2] and batch.audio_positions.tolist() == [QUERIES] * 4
    assert batch.constant == ""


def test_an_audio_that_several_share_is_there_once(parts, samples, speech_encoder):
    a, b, c = samples
    batch = parts.reader.collate([a, c, replace(b, waveforms=[c.waveforms[0], a.waveforms[0].copy()]), a])
    assert batch.audio_index.tolist() == [0, 1, 1, 0, 0]
    assert torch.equal(batch.audio["features"], speech_encoder.features([a.waveforms[0], c.waveforms[0]]))


def test_a_batch_without_audio_has_a_row_that_stands_nowhere(parts):
    """So that the connector runs in every batch, as ranks expect of each other."""
    batch = parts.reader.collate([sample("a", audios=0)])
    assert len_of(batch.audio) == 1 and not len(batch.audio_index) and not batch.audio_mask.any()
    hidden, path = parts.lm.hidden_and_path(parts.lm.prepare(batch))
    assert len(hidden) == len(batch.targets) and path.isfinite()


def test_given_answers_take_the_place_of_the_records(parts, samples):
    given = [[5, 6, 2], [7, 2], [8]]
    batch = parts.reader.collate(samples, answers=given)
    assert [row[row != IGNORE].tolist() for row in batch.labels] == given
    own = parts.reader.collate(samples)
    for number in range(len(samples)):
        prompts = [each.input_ids[number, each.attention_mask[number].bool() & (each.labels[number] == IGNORE)]
                   for each in (batch, own)]  # fmt: skip
        assert torch.equal(*prompts)


def test_features_that_were_extracted_before_give_the_same_batch(parts, samples):
    batch = parts.reader.collate(samples)
    features = parts.reader.features([waveform for one in samples for waveform in one.waveforms])
    placed = parts.reader.placed([replace(one, waveforms=[]) for one in samples], features, range(4))
    assert torch.equal(placed.input_ids, batch.input_ids) and torch.equal(placed.audio_index, batch.audio_index)
    assert torch.equal(placed.audio["features"], batch.audio["features"])


def test_audio_that_is_too_long_or_too_short_is_refused_by_its_sample(parts, samples):
    reader = parts.reader
    message = r"^sample c: an audio of 1\.00 s exceeds the model's window of 1 s; .* at ingest \(--max-seconds 1\)$"
    with pytest.raises(UserError, match=message):
        reader.collate([samples[0], replace(samples[2], waveforms=[LONG])])
    reader.collate([replace(samples[2], waveforms=[LONG[:16_000]])])  # as long as the window
    assert reader.shortest_seconds == 0
    reader.shortest_seconds = 0.1
    with pytest.raises(
        UserError, match=r"^sample c: an audio of 0\.100 s is shorter than the 0\.1 s .*; leave it out$"
    ):
        reader.collate([samples[0], replace(samples[2], waveforms=[SHORT])])
    reader.collate([replace(samples[2], waveforms=[LONG[:1_600]])])
    # A stream, which is checked as it comes, leaves such a sample out where it is to.
    reader.check(replace(samples[2], waveforms=[]))
    for waveform in (LONG, SHORT):
        with pytest.raises(UserError, match=r"^sample c: an audio of "):
            reader.check(replace(samples[2], waveforms=[waveform]))


@pytest.mark.parametrize("seconds", [0.0, 0.3, 1.0, 30.0])
def test_every_audio_has_as_many_positions_as_the_connector_has_queries(parts, seconds):
    assert parts.reader.positions_of(seconds) == QUERIES


def test_a_samples_length_needs_no_audio(parts, samples):
    batch = parts.reader.collate(samples)
    for one, mask in zip(samples, batch.attention_mask, strict=True):
        assert parts.reader.length(one) == parts.reader.length(replace(one, waveforms=[])) == mask.sum()


def test_what_exceeds_the_models_positions_is_refused_by_its_sample(parts, samples):
    length = parts.reader.length(samples[1])
    parts.reader.limit(300, length, "the LLM of teacher")
    parts.reader.collate(samples)
    parts.reader.limit(300, length - 1, "the LLM of teacher")
    with pytest.raises(UserError, match=rf"^sample b: .* take {length} tokens, the LLM of teacher reads {length - 1};"):
        parts.reader.collate(samples)
    parts.reader.limit(2, length - 1, "the LLM of teacher")  # answers are cut
    lengths, prompts = [parts.reader.length(one) for one in samples], parts.reader.prompts
    assert prompts.truncated == 0  # an answer that is only looked at is not one that was cut for training
    batch = parts.reader.collate(samples)
    assert lengths == batch.attention_mask.sum(1).tolist() and len(batch.targets) == 6 and prompts.truncated == 3


def test_a_constant_is_made_once(parts, samples):
    made = []

    def make():
        made.append(1)
        return parts.reader.features([np.zeros(16_000, np.float32)])

    batches = [parts.reader.collate(chosen) for chosen in (samples, samples[1:])]
    found = [parts.reader.constant(batch, "hum", make) for batch in batches]
    assert made == [1] and found[0].audio is found[1].audio
    assert [each.constant for each in found] == ["hum"] * 2 and not found[0].audio_index.any()
    assert torch.equal(found[0].input_ids, batches[0].input_ids)


def test_the_transcription_stands_in_the_prompt_or_not_and_a_saved_model_remembers(
    speech_encoder, samples, tmp_path, tokenizer
):
    model = make_model(tokenizer, speech_encoder)
    lm = SpeechAudioLM(model, speech_encoder, load_again(tokenizer, tmp_path))
    reader = lm.reader
    with_it, identity = reader.length(samples[1]), reader.identity()
    assert reader.transcript == "after_audio"
    reader.set_transcript(None)
    assert reader.identity() == identity
    reader.set_transcript("none")
    assert reader.length(samples[1]) < with_it and reader.identity() != identity
    silent = replace(samples[1], record=samples[1].record | {"audios": [{"text": ""}, {"text": ""}]})
    assert torch.equal(reader.collate(samples[1:2]).input_ids, reader.collate([silent]).input_ids)
    lm.save(tmp_path / "model")
    again = SpeechAudioLM(*load(tmp_path / "model")).reader
    assert again.transcript == "none" and again.identity() == reader.identity()


def load_again(tokenizer, folder):
    """The tokenizer as one that no other test has."""
    tokenizer.save_pretrained(folder / "tokenizer")
    return AutoTokenizer.from_pretrained(folder / "tokenizer")


def test_readers_differ_by_what_batches_depend_on(parts, speech_encoder, tokenizer):
    own = parts.reader.identity()
    assert SpeechReader(tokenizer, speech_encoder, QUERIES).identity() == own
    assert SpeechReader(tokenizer, speech_encoder, QUERIES + 1).identity() != own
