"""The paths with and without audio (method.md, negatives)."""

import pytest
import torch

from caad_ds.config.schema import NEGATIVES
from caad_ds.data.batch import IGNORE, Batch
from caad_ds.models.negatives import Negative, drop_audio, embed_both, embed_without_audio
from caad_ds.models.speech_lm.embed import embed, merge_audio
from caad_ds.models.whisper_qformer.audio_states import AudioStates

pytestmark = pytest.mark.numeric


def without_span(batch: Batch) -> Batch:
    """The batch as tokens in which no audio position ever was, right-padded."""
    rows = []
    for ids, mask, audio, labels in zip(batch.input_ids, batch.attention_mask, batch.audio_mask, batch.labels):
        kept = mask.bool() & ~audio
        rows.append((ids[kept], labels[kept]))
    length = max(len(ids) for ids, _ in rows)

    def pad(values: torch.Tensor, value: int) -> torch.Tensor:
        return torch.nn.functional.pad(values, (0, length - len(values)), value=value)

    ids = torch.stack([pad(ids, 0) for ids, _ in rows])
    mask = torch.stack([pad(torch.ones_like(ids), 0) for ids, _ in rows])
    labels = torch.stack([pad(labels, IGNORE) for _, labels in rows])
    return Batch(batch.keys, ids, mask, torch.zeros_like(ids, dtype=torch.bool), labels)


@pytest.mark.parametrize("pad", ["right", "left"])
def test_text_only_equals_removing_the_span(parts, samples, pad):
    batch = parts.batch(samples, pad=pad)
    states = parts.encoder.encode(batch.features)
    text_only = Negative.of("text_only", parts.encoder)
    both = parts.model.hidden_states(embed_both(parts.model, batch, states, text_only))
    heard, unheard = both.chunk(2)
    removed = without_span(batch)
    plain = parts.model.hidden_states(merge_audio(parts.model, removed, torch.zeros(0, 4, 32)))
    parts.close(unheard, plain)
    assert (heard - unheard).abs().max() > 0.1
    alone = parts.model.hidden_states(embed_without_audio(parts.model, batch, text_only))
    parts.close(alone, plain)


@pytest.mark.parametrize("name", NEGATIVES)
def test_both_paths_in_one_forward_equal_each_alone(parts, samples, name):
    batch = parts.batch(samples)
    states = parts.encoder.encode(batch.features)
    negative = Negative.of(name, parts.encoder)
    heard, unheard = parts.model.hidden_states(embed_both(parts.model, batch, states, negative)).chunk(2)
    parts.close(heard, parts.model.hidden_states(embed(parts.model, batch, states)))
    alone = parts.model.hidden_states(embed_without_audio(parts.model, batch, negative))
    parts.close(unheard, alone)


def test_zero_mel_silence_and_noise_are_different_constants(parts):
    negatives = {name: Negative.of(name, parts.encoder) for name in ("zero_mel", "silence", "noise")}
    again = {name: Negative.of(name, parts.encoder) for name in negatives}
    hidden = {name: negative.states.hidden for name, negative in negatives.items()}
    assert {tuple(h.shape) for h in hidden.values()} == {(1, 2, 50, 32)}
    assert all(torch.equal(hidden[name], again[name].states.hidden) for name in hidden)
    assert (negatives["zero_mel"].features == 0).all()
    assert negatives["silence"].features.max() == pytest.approx(-1.5)
    for first, second in (("zero_mel", "silence"), ("zero_mel", "noise"), ("silence", "noise")):
        assert (hidden[first] - hidden[second]).abs().max() > 0.1


@pytest.mark.parametrize("name", NEGATIVES)
def test_dropped_audio_is_the_negative_path_of_that_sample_alone(parts, samples, name):
    batch = parts.batch(samples)
    negative = Negative.of(name, parts.encoder)
    dropped = drop_audio(batch, torch.tensor([False, True, False]), negative)
    states = parts.encoder.encode(dropped.features)
    mixed = parts.model.hidden_states(embed(parts.model, dropped, states))
    heard = parts.model.hidden_states(embed(parts.model, batch, parts.encoder.encode(batch.features)))
    unheard = parts.model.hidden_states(embed_without_audio(parts.model, batch, negative))
    second = batch.sample_of_row == 1
    parts.close(mixed[second], unheard[second])
    parts.close(mixed[~second], heard[~second])


def test_a_shared_audio_is_dropped_for_one_sample_and_heard_by_the_others(parts, samples):
    asked = [samples[0], samples[0], samples[2]]
    batch, negative = parts.batch(asked), Negative.of("zero_mel", parts.encoder)
    assert batch.audio_index.tolist() == [0, 0, 1]
    dropped = drop_audio(batch, torch.tensor([True, False, False]), negative)

    def hidden(made: Batch) -> torch.Tensor:
        return parts.model.hidden_states(embed(parts.model, made, parts.encoder.encode(made.features)))

    apart = torch.cat([hidden(parts.batch([one])) for one in asked])
    parts.close(hidden(batch), apart)
    first = batch.sample_of_row == 0
    unheard = parts.model.hidden_states(embed_without_audio(parts.model, batch, negative))
    parts.close(hidden(dropped)[first], unheard[first])
    parts.close(hidden(dropped)[~first], apart[~first])


def test_states_join():
    one, two = AudioStates(torch.rand(1, 2, 3, 4)), AudioStates(torch.rand(2, 2, 3, 4))
    joined = AudioStates.cat([one, two]).hidden
    assert torch.equal(joined[:1], one.hidden) and torch.equal(joined[1:], two.hidden)
