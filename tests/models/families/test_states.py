"""States and logits of transformers' audio LLMs equal those of their own class, independent of the batch."""

import pytest
import torch
from transformers import Qwen2AudioForConditionalGeneration

from caad_ds.config.objective_section import NEGATIVES
from caad_ds.data.batch import Batch
from caad_ds.models import auto
from caad_ds.utils.errors import UserError
from tests.models.families.conftest import assert_alone, audio, own_logits, sample

pytestmark = pytest.mark.numeric


def test_the_head_gives_the_familys_own_logits(parts, samples):
    batch = parts.batch(samples)
    own = own_logits(parts.model, batch).flatten(0, 1)[batch.answer_rows]
    found = parts.lm.head().logits(parts.hidden(batch))
    assert len(own) == len(batch.targets) > 10 and own.abs().max() > 0.1
    parts.close(found, own)  # 0 apart but where another number of rows is another order of summation


def test_each_clip_reaches_the_states_behind_it(parts, samples):
    """The states compared in the other tests depend on each clip, over its whole length."""
    heard = parts.hidden(parts.batch(samples))
    number = parts.batch(samples).sample_of_row
    for place in range(3):
        other = sample("c", 0.4, 2.0, 0.1, answer="It is")
        other.waveforms[place][-800:] *= -1
        changed = parts.hidden(parts.batch([*samples[:2], other, samples[3]]))
        assert (changed - heard)[number == 2].abs().max() > 1e-3
        parts.close(changed[number != 2], heard[number != 2])


@pytest.mark.parametrize("pad", ["right", "left"])
def test_padding_and_other_samples_change_nothing(parts, samples, pad):
    apart = assert_alone(parts, samples, pad)
    first = samples[0], sample("z", 2.0, 2.0, 1.0, question="beep " * 40)
    far = parts.hidden(parts.batch(first, pad=pad))
    parts.close(far[: len(apart[0])], apart[0])


def test_an_audio_that_samples_share_is_one_row(parts):
    shared = [sample("a", 0.5), sample("b", 0.7, 0.5), sample("c", 0.5)]
    for each, place in ((shared[1], 1), (shared[2], 0)):
        each.waveforms[place] = shared[0].waveforms[0]
    batch = parts.batch(shared)
    assert batch.audio_index.tolist() == [0, 1, 0, 0] and len(batch.audio["input_features"]) == 2
    parts.close(parts.hidden(batch), torch.cat([parts.hidden(parts.batch([each])) for each in shared]))


@pytest.mark.parametrize("name", NEGATIVES)
def test_both_paths_in_one_forward_equal_each_alone(parts, samples, name):
    batch = parts.batch(samples)
    negative = parts.negative(name, batch, samples, lambda key, number: audio(f"{key}-{number}", 0.9))
    heard, unheard = parts.hidden(Batch.cat([batch, negative])).chunk(2)
    parts.close(heard, parts.hidden(batch))
    parts.close(unheard, parts.hidden(negative))
    hears = batch.sample_of_row < 3
    assert (heard - unheard)[hears].abs().max() > 0.1
    parts.close(heard[~hears], unheard[~hears])


def test_a_factor_of_the_logits_is_measured_and_applied(folder, samples, monkeypatch):
    forward = Qwen2AudioForConditionalGeneration.forward

    def scaled(self, *args, **kwargs):
        out = forward(self, *args, **kwargs)
        out.logits = out.logits * 0.3
        return out

    monkeypatch.setattr(Qwen2AudioForConditionalGeneration, "forward", scaled)
    lm = auto.load(folder)
    batch = lm.reader.collate(samples)
    own = own_logits(lm.module.eval(), batch).flatten(0, 1)[batch.answer_rows]
    found = lm.head().logits(lm.hidden(batch))
    assert lm.head().scale == pytest.approx(0.3, rel=1e-6)
    assert (found - own).abs().max() <= 1e-6 * own.abs().max()


@pytest.mark.parametrize(
    "change",
    [lambda z: z + torch.arange(z.shape[-1]), lambda z: z * torch.linspace(1, 2, z.shape[-1]), lambda z: z.abs()],
    ids=["added", "by token", "absolute"],
)
def test_a_head_that_is_no_constant_multiple_is_refused(folder, monkeypatch, change):
    forward = Qwen2AudioForConditionalGeneration.forward

    def changed(self, *args, **kwargs):
        out = forward(self, *args, **kwargs)
        out.logits = change(out.logits)
        return out

    monkeypatch.setattr(Qwen2AudioForConditionalGeneration, "forward", changed)
    with pytest.raises(UserError, match=f"^{folder}: a model of type qwen2_audio cannot be used: its logits are not"):
        auto.load(folder)


@pytest.mark.parametrize("pad", ["right", "left"])
def test_a_batch_without_audio_gives_the_states_of_its_text(parts, samples, pad):
    batch = parts.batch(samples, pad=pad)
    removed = parts.negative("text_only", batch, samples)
    plain = parts.model.model(input_ids=removed.input_ids, attention_mask=removed.attention_mask).last_hidden_state
    parts.close(parts.hidden(removed), plain.flatten(0, 1)[removed.answer_rows])


def test_a_batch_shorter_than_the_audio_beside_it(parts, monkeypatch):
    """The sample that lets the tower run is longer than the text."""
    monkeypatch.setattr(parts.lm, "_silent", None)
    monkeypatch.setattr(parts.reader, "shortest", lambda: audio("long", 2.0))
    few = sample("d", question="", answer="low", messages=[{"role": "system", "content": ""}])
    batch = parts.batch([few, few], answers=[[5, 6], [7]])
    plain = parts.model.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
    assert batch.input_ids.shape[1] < 50
    parts.close(parts.hidden(batch), plain.flatten(0, 1)[batch.answer_rows])
    parts.lm._silent = None


def test_the_connector_is_trained_by_nothing_where_no_sample_has_audio(parts, samples):
    with torch.enable_grad():
        for heard in (samples[3:], samples[:3], [samples[3], samples[0], samples[3]]):
            batch = parts.batch(heard)
            parts.model.zero_grad()
            hidden, path = parts.lm.hidden_and_path(batch)
            (0.0 * hidden.sum() + 0.0 * path).backward()
            gradients = [each.grad for each in parts.lm.connector.parameters()]
            assert all(each is not None and (each == 0).all() for each in gradients)
            # The number hears audio, wherever that is in the batch.
            parts.model.zero_grad()
            parts.lm.hidden_and_path(batch)[1].backward()
            assert all(each.grad.abs().max() > 0 for each in parts.lm.connector.parameters())
        parts.model.zero_grad(set_to_none=True)
        batch = parts.batch(samples[3:])
        parts.lm.hidden_and_path(batch)[0].sum().backward()
        assert all((each.grad == 0).all() for each in parts.lm.connector.parameters())
        assert all((each.grad == 0).all() for each in parts.lm.tower.parameters() if each.requires_grad)
        parts.model.zero_grad(set_to_none=True)
