"""The paths with and without audio (method.md, negatives)."""

import numpy as np
import pytest
import torch

from caad_ds.config.objective_section import NEGATIVES
from caad_ds.data.batch import IGNORE, Batch, len_of
from caad_ds.distill.audio_dropout import drop_audio
from caad_ds.models import negatives
from caad_ds.training.batches import partners_of
from caad_ds.utils.errors import UserError
from tests.models.small import sample

pytestmark = pytest.mark.numeric

OTHERS = [sample(key) for key in "abcdefgh"]  # the corpus that `shuffled` takes audio from
PARTNERS = partners_of(OTHERS)  # type: ignore[arg-type]  # a list has what it asks of a reader


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
    text_only = parts.negative("text_only", batch, samples)
    heard, unheard = parts.hidden(Batch.cat([batch, text_only], pad)).chunk(2)
    plain = parts.hidden(without_span(batch))
    parts.close(unheard, plain)
    assert (heard - unheard).abs().max() > 0.1
    parts.close(parts.hidden(text_only), plain)


@pytest.mark.parametrize("name", NEGATIVES)
def test_both_paths_in_one_forward_equal_each_alone(parts, samples, name):
    batch = parts.batch(samples)
    negative = parts.negative(name, batch, samples, PARTNERS)
    prepared = [parts.lm.prepare(each) for each in (batch, negative)]
    heard, unheard = parts.lm.hidden(Batch.cat(prepared)).chunk(2)
    parts.close(heard, parts.hidden(batch))
    parts.close(unheard, parts.hidden(negative))


@pytest.mark.parametrize("name", NEGATIVES)
def test_the_second_path_does_not_depend_on_the_samples_beside(parts, samples, name):
    together = parts.batch(samples)
    unheard = parts.hidden(parts.negative(name, together, samples, PARTNERS))
    for number, one in enumerate(samples):
        alone = parts.batch([one])
        expected = parts.hidden(parts.negative(name, alone, [one], PARTNERS))
        parts.close(unheard[together.sample_of_row == number], expected)


@pytest.mark.parametrize("name", NEGATIVES)
def test_the_second_path_has_the_texts_and_answers_of_the_first(parts, samples, name):
    batch = parts.batch(samples)
    negative = parts.negative(name, batch, samples, PARTNERS)
    assert negative.keys == batch.keys and torch.equal(negative.targets, batch.targets)
    assert torch.equal(negative.sample_of_row, batch.sample_of_row)
    for number in range(len(samples)):
        texts = [
            each.input_ids[number, each.attention_mask[number].bool() & ~each.audio_mask[number]]
            for each in (batch, negative)
        ]
        assert torch.equal(*texts)


def test_zero_mel_silence_and_noise_are_different_constants(parts, samples):
    batch, other = parts.batch(samples), parts.batch(samples[1:])
    names = ("zero_mel", "silence", "noise")
    made = {name: parts.negative(name, batch, samples) for name in names}
    features = {name: negative.audio["features"] for name, negative in made.items()}
    states = {name: parts.lm.prepare(negative).audio["states"] for name, negative in made.items()}
    for name, negative in made.items():
        assert negative.constant == name and not negative.audio_index.any()
        again = parts.lm.encode(parts.negative(name, other, samples[1:]).audio)
        assert torch.equal(states[name], again["states"])
    assert {tuple(each.shape) for each in states.values()} == {(1, 2, 50, 32)}
    assert (features["zero_mel"] == 0).all()
    assert features["silence"].max() == pytest.approx(-1.5)
    for first, second in (("zero_mel", "silence"), ("zero_mel", "noise"), ("silence", "noise")):
        assert (states[first] - states[second]).abs().max() > 0.1


@pytest.mark.parametrize("name", ["zero_mel", "silence", "noise"])
def test_a_constant_is_made_and_encoded_once(parts, samples, monkeypatch, name):
    made: list[int] = []
    encoded: list[int] = []
    features, encode = parts.reader.features, parts.lm.encode
    monkeypatch.setattr(parts.reader, "features", lambda waveforms: made.append(len(waveforms)) or features(waveforms))
    monkeypatch.setattr(parts.lm, "encode", lambda audio: encoded.append(len_of(audio)) or encode(audio))
    for chosen in (samples, samples[:1]):
        batch = parts.batch(chosen)
        prepared = parts.lm.prepare(parts.negative(name, batch, chosen))
        assert len_of(prepared.audio) == 1 and len(prepared.audio_index) == len(batch.audio_index)
    both = Batch.cat([prepared, prepared])
    assert len_of(both.audio) == 1 and both.constant == name
    assert made == [4, 1, 1] and encoded == [1]


def test_a_batch_of_both_paths_has_one_row_for_a_constant(parts, samples):
    batch = parts.batch(samples)
    both = Batch.cat([batch, parts.negative("noise", batch, samples)])
    assert len_of(both.audio) == len_of(batch.audio) + 1 and both.constant == ""
    assert both.audio_index.tolist() == [0, 1, 2, 3, 4, 4, 4, 4]


def test_shuffled_is_another_samples_audio_by_the_samples_key_alone(parts):
    def partner(chosen: list, key: str) -> torch.Tensor:
        batch = parts.batch(chosen)
        negative = parts.negative("shuffled", batch, chosen, PARTNERS)
        [row] = negative.audio_index[negative.audio_sample == negative.keys.index(key)]
        return negative.audio["features"][row]

    a, b, c = OTHERS[:3]
    heard = {one.key: parts.batch([one]).audio["features"][0] for one in OTHERS}
    for one in (a, b, c):
        found = [partner(chosen, one.key) for chosen in ([one], [a, b, c], [c, b, a], [one, OTHERS[-1]])]
        assert all(torch.allclose(found[0], other, atol=1e-5) for other in found)
        [whose] = [key for key, features in heard.items() if torch.allclose(features, found[0], atol=1e-5)]
        assert whose != one.key
    partners = {one.key: PARTNERS(one, 0).tobytes() for one in OTHERS}
    assert len(set(partners.values())) > 2  # not one for all


def test_each_of_a_samples_audios_has_a_partner(parts, samples):
    batch = parts.batch(samples)
    negative = parts.negative("shuffled", batch, samples, PARTNERS)
    rows = negative.audio["features"][negative.audio_index]
    a, b, c = samples
    expected = [(a, 0), (b, 0), (b, 1), (c, 0)]
    features = parts.reader.features([PARTNERS(*each) for each in expected]).audio["features"]
    torch.testing.assert_close(rows, features)


def test_shuffled_names_what_it_lacks(parts, samples):
    batch = parts.batch(samples)
    with pytest.raises(UserError, match=r"^negative shuffled: there are no other samples .*; choose another negative$"):
        parts.negative("shuffled", batch, samples)
    with pytest.raises(UserError, match=r"^a partner of negative shuffled: an audio of 1\.50 s exceeds"):
        parts.negative("shuffled", batch, samples, lambda key, number: np.zeros(24_000, np.float32))
    alone = partners_of([samples[0]])  # type: ignore[arg-type]
    with pytest.raises(UserError, match="there is no other sample with audio; choose another negative"):
        alone(samples[0], 0)


def test_an_unknown_negative_is_reported_with_the_known_ones():
    with pytest.raises(UserError, match=r"negative 'hum': not known; use one of zero_mel, .*shuffled"):
        negatives.find("hum")


@pytest.mark.parametrize("name", NEGATIVES)
def test_dropped_audio_is_the_negative_path_of_that_sample_alone(parts, samples, name):
    batch = parts.batch(samples)
    negative = parts.negative(name, batch, samples, PARTNERS)
    mixed = parts.hidden(drop_audio(batch, negative, torch.tensor([False, True, False])))
    heard, unheard = parts.hidden(batch), parts.hidden(negative)
    second = batch.sample_of_row == 1
    parts.close(mixed[second], unheard[second])
    parts.close(mixed[~second], heard[~second])


def test_a_shared_audio_is_dropped_for_one_sample_and_heard_by_the_others(parts, samples):
    asked = [samples[0], samples[0], samples[2]]
    batch = parts.batch(asked)
    assert batch.audio_index.tolist() == [0, 0, 1]
    negative = parts.negative("zero_mel", batch, asked)
    dropped = parts.hidden(drop_audio(batch, negative, torch.tensor([True, False, False])))
    apart = torch.cat([parts.hidden(parts.batch([one])) for one in asked])
    parts.close(parts.hidden(batch), apart)
    first = batch.sample_of_row == 0
    parts.close(dropped[first], parts.hidden(negative)[first])
    parts.close(dropped[~first], apart[~first])
