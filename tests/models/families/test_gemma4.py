"""Particularities of Gemma 4: sliding windows, and keys shared between layers."""

import json

import pytest
import torch

from caad_ds.models import auto, negatives
from caad_ds.utils.errors import UserError
from tests.models.families.conftest import NEAR, sample
from tests.models.families.tiny import gemma4

pytestmark = pytest.mark.numeric
pytest.importorskip("torchvision", reason="its processor needs torchvision")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return gemma4.write(tmp_path_factory.mktemp("gemma4"))


@pytest.fixture
def lm(folder):
    made = auto.load(folder)
    made.module.eval()
    return made


def test_text_only_is_the_text_alone_within_a_sliding_window(lm):
    """A later token does not attend to audio positions beyond the window."""
    samples = [sample("a", 1.3), sample("b", 0.5, 0.7, question="Is it low?")]
    batch = lm.reader.collate(samples)
    assert batch.audio_positions.max() > lm.module.config.text_config.sliding_window
    found = lm.hidden(negatives.find("text_only")(batch, samples, lm.reader, None))
    rows = []
    for ids, seen, labels in zip(batch.input_ids, batch.attention_mask, batch.labels, strict=True):
        kept = seen.bool() & (ids != lm.reader.prompts.placeholder)
        states = lm.module.model(input_ids=ids[kept][None]).last_hidden_state[0]
        rows.append(states[:-1][labels[kept][1:] != -100])
    expected = torch.cat(rows)
    assert (found - expected).abs().max() <= NEAR * expected.abs().max()


def test_recomputed_activations_give_the_same_gradients(folder):
    """Late layers read the keys that earlier ones left, also as they are computed again."""

    def gradients(checkpointing: bool) -> dict[str, torch.Tensor]:
        lm = auto.load(folder)
        lm.choose_weights("all")
        if checkpointing:
            lm.checkpoint_activations()
        lm.module.train()
        lm.freeze_running_parts()
        with torch.enable_grad():
            lm.hidden(lm.reader.collate([sample("a", 1.3), sample("b", 0.4)])).square().sum().backward()
        return {name: weight.grad for name, weight in lm.named_parameters() if weight.grad is not None}

    kept, again = gradients(False), gradients(True)
    assert kept.keys() == again.keys() and any("layers.0.self_attn.k_proj" in name for name in kept)
    for name, gradient in kept.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-4, atol=1e-5 * gradient.abs().max().item())


def test_its_layers_are_not_cut(lm):
    with pytest.raises(UserError, match=r"^student.keep_layers: the layers of a gemma4 share keys"):
        lm.keep_first_layers(1)


def test_readers_that_write_other_tokens_around_audio_are_not_alike(lm, monkeypatch):
    identity = lm.reader.identity()
    monkeypatch.setattr(lm.reader.processor, "eoa_token", "<image|>")
    assert lm.reader.identity() != identity


def test_audio_without_a_frame_is_refused(lm):
    with pytest.raises(UserError, match=r"^sample a: an audio of 0.010 s is shorter than the 0.02 s"):
        lm.reader.collate([sample("a", 0.01)])
    assert lm.reader.features([sample("a", 0.02).waveforms[0]]).positions == [1]


def test_a_model_without_an_audio_tower_is_refused(folder, tmp_path):
    """As the larger ones are published."""
    values = gemma4.architecture(gemma4.processor()) | {"audio_config": None}
    file = tmp_path / "model.json"
    file.write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"^the architecture: a gemma4 without an audio tower takes no audio"):
        auto.build(str(file), folder)
