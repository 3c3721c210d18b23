"""Each negative against its definition (docs/method.md), made here by the family's own processor and forward."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from caad_ds.distill.audio_dropout import drop_audio
from caad_ds.utils.errors import UserError
from tests.models.families.conftest import audio

pytestmark = pytest.mark.numeric


def of_texts(parts, texts, clips):
    """Ids and audio inputs that the family's processor makes of prompts and the clips in them."""
    inputs = {"audio": clips, "audio_kwargs": {"sampling_rate": 16_000}} if clips else {}
    return parts.processor(text=texts, text_kwargs={"padding": True}, return_tensors="pt", **inputs)


def states(parts, made, batch):
    """The family's own states at a batch's answer rows, the answers' ids written behind the processor's prompts."""
    rows = []
    for number in range(len(batch.keys)):
        prompt = made["input_ids"][number][made["attention_mask"][number].bool()]
        kept = batch.sample_of_row == number
        rows.append(torch.cat([prompt, batch.targets[kept]]))
    length = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), length, dtype=torch.long), torch.zeros(len(rows), length, dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, : len(row)], mask[number, : len(row)] = row, 1
    inputs = {name: made[name] for name in ("input_features", "feature_attention_mask") if name in made}
    hidden = parts.model.model(input_ids=ids, attention_mask=mask, **inputs).last_hidden_state
    counts = torch.bincount(batch.sample_of_row, minlength=len(rows)).tolist()
    found = [each[len(row) - n - 1 : len(row) - 1] for each, row, n in zip(hidden, rows, counts, strict=True)]
    return torch.cat(found)


def conversation(parts, each):
    """A sample's prompt as text, by the family's template."""
    [message] = each.record["messages"]
    question = message["content"].rpartition("\n")[2]
    content = [*({"type": "audio", "audio": ""} for _ in each.waveforms), {"type": "text", "text": question}]
    chat = [{"role": "user", "content": content}]
    return parts.processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)


def clips_of(samples, change=lambda waveform: waveform):
    return [change(waveform) for each in samples for waveform in each.waveforms]


@pytest.fixture
def texts(parts, samples):
    return [conversation(parts, each) for each in samples]


def test_the_first_path_is_the_processors_own(parts, samples, texts):
    batch = parts.batch(samples)
    parts.close(parts.hidden(batch), states(parts, of_texts(parts, texts, clips_of(samples)), batch))


def test_zero_mel_has_features_of_zero_and_the_same_lengths(parts, samples, texts):
    batch = parts.batch(samples)
    made = of_texts(parts, texts, clips_of(samples))
    made["input_features"] = torch.zeros_like(made["input_features"])
    negative = parts.negative("zero_mel", batch, samples)
    assert (negative.audio["input_features"] == 0).all()
    assert torch.equal(negative.audio["feature_attention_mask"], batch.audio["feature_attention_mask"])
    parts.close(parts.hidden(negative), states(parts, made, batch))


def noise(waveform):
    return (np.random.default_rng(0).standard_normal(len(waveform)) * 0.1).astype(np.float32)


@pytest.mark.parametrize("name, change", [("silence", np.zeros_like), ("noise", noise)])
def test_silence_and_noise_are_the_processors_features_of_them(parts, samples, texts, name, change):
    batch = parts.batch(samples)
    made = of_texts(parts, texts, clips_of(samples, change))
    negative = parts.negative(name, batch, samples)
    torch.testing.assert_close(negative.placed()["input_features"], made["input_features"])
    assert torch.equal(negative.placed()["feature_attention_mask"], made["feature_attention_mask"])
    assert torch.equal(negative.input_ids, batch.input_ids)
    parts.close(parts.hidden(negative), states(parts, made, batch))


@pytest.mark.parametrize("pad", ["right", "left"])
def test_text_only_is_the_prompt_tokenised_without_the_span(parts, samples, texts, pad):
    batch = parts.batch(samples, pad=pad)
    negative = parts.negative("text_only", batch, samples)
    silent = [text.replace(parts.processor.audio_token, "") for text in texts]
    made = of_texts(parts, silent, [])
    for number, row in enumerate(negative.input_ids):
        prompt = row[negative.attention_mask[number].bool() & (negative.labels[number] == -100)]
        assert prompt.tolist() == parts.processor.tokenizer(silent[number])["input_ids"]
    assert not (negative.input_ids == parts.reader.prompts.placeholder).any()
    assert not len(negative.audio_index)
    parts.close(parts.hidden(negative), states(parts, made, batch))


def partner(whose, number):
    """Audio of another length than that of any sample here."""
    return audio(f"partner of {whose.key} {number}", {"a": 1.7, "b": 0.9, "c": 0.3}[whose.key] + 0.1 * number)


@pytest.mark.parametrize("with_answer", [True, False])
def test_shuffled_is_the_partners_audio_and_its_length(parts, samples, texts, with_answer):
    asked = {} if with_answer else {"pad": "left", "with_answer": False}
    batch = parts.batch(samples, **asked)
    negative = parts.negative("shuffled", batch, samples, partner)
    expected = parts.batch([with_partners(each) for each in samples], **asked)
    assert not torch.equal(negative.audio_positions, batch.audio_positions)
    for name in ("attention_mask", "labels", "audio_mask", "audio_positions"):
        assert torch.equal(getattr(negative, name), getattr(expected, name))
    seen = negative.attention_mask.bool()
    assert torch.equal(negative.input_ids[seen], expected.input_ids[seen])
    for name, value in expected.placed().items():
        torch.testing.assert_close(negative.placed()[name], value)
    if with_answer:
        clips = clips_of(map(with_partners, samples))
        parts.close(parts.hidden(negative), states(parts, of_texts(parts, texts, clips), batch))


def with_partners(each):
    """The sample with its partners' audio."""
    return replace(each, waveforms=[partner(each, number) for number in range(len(each.waveforms))])


def test_shuffled_refuses_a_partner_beyond_the_window(parts, samples):
    with pytest.raises(UserError, match=r"^a partner of negative shuffled: an audio of 2\.50 s exceeds"):
        parts.negative("shuffled", parts.batch(samples), samples, lambda whose, number: audio(whose.key, 2.5))


@pytest.mark.parametrize("name", ["zero_mel", "silence", "noise", "text_only", "shuffled"])
def test_a_negative_depends_on_its_sample_alone(parts, samples, name):
    together = parts.hidden(parts.negative(name, parts.batch(samples), samples, partner))
    apart = [parts.hidden(parts.negative(name, parts.batch([each]), [each], partner)) for each in samples]
    parts.close(together, torch.cat(apart))


@pytest.mark.parametrize("name", ["zero_mel", "text_only", "shuffled"])
def test_dropped_audio_is_the_negative_of_that_sample_alone(parts, samples, name):
    batch = parts.batch(samples)
    negative = parts.negative(name, batch, samples, partner)
    dropped = drop_audio(batch, negative, torch.tensor([False, True, False, True]))
    found, heard, unheard = (parts.hidden(each) for each in (dropped, batch, negative))
    chosen = torch.isin(batch.sample_of_row, torch.tensor([1, 3]))
    parts.close(found, torch.where(chosen[:, None], unheard, heard))
    assert (heard - unheard)[batch.sample_of_row == 1].abs().max() > 0.01
