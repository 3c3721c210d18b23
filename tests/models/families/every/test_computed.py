"""Prompts, features, logits, negatives and answers of every family equal those of its own class and processor."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from caad_ds.config.objective_section import NEGATIVES
from caad_ds.data.batch import Batch
from caad_ds.generation.decoding import Contrast, generate
from caad_ds.models import auto
from caad_ds.models.processor_reader import WINDOWS
from caad_ds.models.prompts.answer_turn import end_tokens
from caad_ds.utils.errors import UserError
from data_prep.ingest.longest_audio import window_seconds
from tests.models.families.conftest import assert_alone, audio, sample
from tests.models.families.every.conftest import own_logits

ALPHA, STEPS = 1.5, 8


def test_the_head_gives_the_familys_own_logits(parts, folder, samples):
    """Those of its class as it is in transformers, times the factor that the family says the class leaves out."""
    own_class = parts.cls.from_pretrained(folder).eval()
    factor = (parts.reader.of.logits_factor or (lambda config: 1.0))(own_class.config)
    for pad in ("right", "left"):
        batch = parts.batch(samples, pad=pad)
        own = own_logits(parts.lm, batch)
        assert len(own) == len(batch.targets) > 8 and own.abs().max() > 0.01
        parts.close(parts.lm.head().logits(parts.hidden(batch)), own)
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, **parts.lm.audio_inputs(batch)}
        assert torch.equal(own, factor * own_class(**inputs).logits.flatten(0, 1)[batch.answer_rows])


def test_the_reader_alone_reads_as_that_of_the_model(parts, folder):
    """A run that reads the teacher's states from a cache loads no weights of it."""
    assert auto.load_reader(folder).identity() == parts.reader.identity()


def test_prompts_are_the_processors_own(parts, samples):
    """Ids, placeholders and audio inputs, for as many clips as the family takes, and for text alone."""
    for each in samples:
        question = each.record["messages"][0]["content"].rpartition("\n")[2]
        expected = parts.processor_inputs(parts.reader.processor, question, each.waveforms)
        batch = parts.batch([each], pad="left", with_answer=False)
        assert batch.input_ids.tolist() == expected["input_ids"].tolist()
        assert int(batch.audio_mask.sum()) == (batch.input_ids == parts.reader.prompts.placeholder).sum()
        found = parts.lm.audio_inputs(batch)
        assert bool(found) == bool(each.waveforms)
        for name, value in found.items():
            torch.testing.assert_close(value, expected[name].to(value.dtype))


def test_each_clip_reaches_the_states_behind_it(parts, samples):
    heard = parts.hidden(parts.batch(samples))
    number = parts.batch(samples).sample_of_row
    for place, clip in enumerate(samples[1].waveforms):
        other = replace(samples[1], waveforms=[*samples[1].waveforms])
        other.waveforms[place] = clip * torch.linspace(1, -1, len(clip)).numpy()
        changed = parts.hidden(parts.batch([samples[0], other, *samples[2:]]))
        assert (changed - heard)[number == 1].abs().max() > 1e-3
        parts.close(changed[number != 1], heard[number != 1])


@pytest.mark.parametrize("pad", ["right", "left"])
def test_padding_and_other_samples_change_nothing(parts, samples, pad):
    assert_alone(parts, samples, pad)


@pytest.mark.parametrize("name", NEGATIVES)
def test_each_negative_is_what_the_familys_own_class_makes_of_it(parts, samples, name):
    """And both paths in one forward are each alone."""
    batch = parts.batch(samples)
    negative = parts.negative(name, batch, samples, partner)
    if name == "zero_mel":
        audio_inputs = {n: v * 0 if v.is_floating_point() else v for n, v in batch.audio.items()}
        expected = batch.with_audio(audio_inputs, batch.audio_index, batch.audio_positions)
    elif name == "text_only":
        expected = None
        for row, seen, labels in zip(negative.input_ids, negative.attention_mask, negative.labels, strict=True):
            assert not (row[seen.bool()] == parts.reader.prompts.placeholder).any()
            assert (labels != -100).any()
    else:
        changed = {
            "silence": lambda each, number, clip: clip * 0,
            "noise": lambda each, number, clip: noise(clip),
            "shuffled": lambda each, number, clip: partner(each, number),
        }[name]
        given = [
            replace(each, waveforms=[changed(each, number, clip) for number, clip in enumerate(each.waveforms)])
            for each in samples
        ]
        expected = parts.batch(given)
    second = parts.hidden(negative)
    if expected is None:
        parts.close(parts.lm.head().logits(second), own_logits(parts.lm, negative))
    else:
        parts.close(parts.lm.head().logits(second), own_logits(parts.lm, expected))
    heard, unheard = parts.hidden(Batch.cat([batch, negative])).chunk(2)
    parts.close(heard, parts.hidden(batch))
    parts.close(unheard, second)
    assert (heard - unheard)[batch.sample_of_row < 3].abs().max() > 1e-2
    parts.close(heard[batch.sample_of_row == 3], unheard[batch.sample_of_row == 3])


def noise(clip):
    """The noise of docs/method.md."""
    return (np.random.default_rng(0).standard_normal(len(clip)) * 0.1).astype(np.float32)


def partner(whose, number):
    """Audio of another length than that of any sample here."""
    return audio(f"partner of {whose.key} {number}", {"a": 1.7, "b": 0.9, "c": 0.6}[whose.key] + 0.1 * number)


@pytest.mark.parametrize("name", [None, "zero_mel", "text_only"])
def test_decoding_equals_a_loop_without_a_cache(parts, samples, name):
    batch = parts.batch(samples, pad="left", with_answer=False)
    negative = None if name is None else parts.negative(name, batch, samples)
    contrasted = None if name is None else Contrast(ALPHA, name)
    options = {"max_new_tokens": STEPS, "min_new_tokens": STEPS}
    found = generate(parts.lm, batch, contrasted=contrasted, negative=negative, **options)
    ends = {*end_tokens(parts.reader.tokenizer, parts.lm.stops), parts.reader.prompts.placeholder}
    tokens = torch.empty(len(samples), 0, dtype=torch.long)
    for _ in range(STEPS):
        z = following(parts, samples, None, tokens)
        if name is not None:
            z = (1 + ALPHA) * z - ALPHA * following(parts, samples, name, tokens)
        z[:, [*ends]] = -torch.inf
        tokens = torch.cat([tokens, z.argmax(-1, keepdim=True)], 1)
    assert found.tolist() == tokens.tolist()
    if name is not None:
        assert not torch.equal(generate(parts.lm, batch, **options), found)


def following(parts, samples, name, tokens) -> torch.Tensor:
    """Return the logits [B, V] of the token after these [B, T], by a separate, unpadded forward per sample."""
    rows = []
    for each, ids in zip(samples, tokens.tolist(), strict=True):
        batch = parts.batch([each], answers=[[*ids, 0]])
        if name is not None:
            batch = parts.negative(name, batch, [each])
        rows.append(parts.lm.head().logits(parts.hidden(batch))[-1])
    return torch.stack(rows)


def test_a_batch_without_audio_runs_the_tower(parts, samples):
    batch = parts.batch(samples[3:])
    ran = []
    with parts.lm.tower.register_forward_hook(lambda *_: ran.append(1)), torch.no_grad():
        hidden = parts.hidden(batch)
    assert ran == [1]
    parts.close(parts.lm.head().logits(hidden), own_logits(parts.lm, batch))


def test_more_audios_than_the_family_takes_are_refused(parts):
    if parts.reader.most_audios is None:
        return
    many = sample("many", *[0.5] * (parts.reader.most_audios + 1))
    message = f"^sample many: it has {len(many.waveforms)} audios, and a {parts.reader.family} model takes"
    for check in (parts.reader.check, lambda each: parts.batch([each])):
        with pytest.raises(UserError, match=message):
            check(many)


def test_audio_longer_than_the_family_takes_is_refused(parts):
    longest = parts.reader.longest_seconds
    parts.batch([sample("whole", longest)])
    with pytest.raises(UserError, match=r"^sample long: an audio of .* exceeds the model's window of"):
        parts.batch([sample("long", longest + 0.01)])


def test_the_bounds_hold(parts):
    """The end of the longest audio reaches its features, and the shortest has a position."""
    clip = audio("a", parts.reader.longest_seconds)
    other = clip.copy()
    other[-800:] = 0
    whole, changed = (parts.reader.features([each]).audio for each in (clip, other))
    assert any(not torch.equal(whole[name], changed[name]) for name in whole)
    [count] = parts.reader.features([audio("a", max(parts.reader.shortest_seconds, 1 / 16_000))]).positions
    assert count >= 1


def test_the_longest_audio_is_known_without_the_weights(parts, folder):
    """As `caad-ds prep ingest --for` asks for it."""
    assert window_seconds(folder) == parts.reader.longest_seconds


@pytest.mark.parametrize("share", [0.11, 0.37, 0.5, 0.731, 0.9999, 1.0])
def test_positions_are_bounded_by_the_length(parts, share):
    seconds = max(share * parts.reader.longest_seconds, parts.reader.shortest_seconds)
    [count] = parts.reader.features([audio("a", seconds)]).positions
    assert 1 <= count <= parts.reader.positions_of(seconds)


def test_windows_of_an_audio(parts):
    """An audio has as many rows as windows; those that only pad are no part of the forward's inputs."""
    if not parts.reader.of.windows:
        return
    clips = [audio("a", 0.5), audio("b", parts.reader.longest_seconds)]
    features = parts.reader.features(clips)
    counts = features.audio[WINDOWS].tolist()
    assert counts[0] == 1 and counts[1] > 1
    rows = parts.reader.inputs(features.audio)
    assert all(len(value) == sum(counts) for value in rows.values())
    alone = [parts.reader.inputs(parts.reader.features([clip]).audio) for clip in clips]
    for name, value in rows.items():
        torch.testing.assert_close(value, torch.cat([each[name] for each in alone]))
