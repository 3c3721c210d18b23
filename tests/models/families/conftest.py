"""A tiny Qwen2-Audio, and samples with clips of several lengths."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from caad_ds.data.audio_markers import user_content
from caad_ds.data.decoded_sample import Sample
from caad_ds.models import auto, negatives
from caad_ds.models.audio_lm import AudioLM
from tests.models.families.tiny import qwen2_audio as tiny_qwen2_audio

NEAR = 1e-5  # of the largest value: the promise about padding, other samples and paths, some ten times rounding


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """A model folder in the family's own layout; not to be changed."""
    return tiny_qwen2_audio.write(tmp_path_factory.mktemp("qwen2_audio"))


def loaded(folder: Path) -> AudioLM:
    """The model of a folder, in evaluation."""
    made = auto.load(folder)
    made.module.eval()
    return made


@pytest.fixture(scope="session")
def lm(folder):
    """The model, in evaluation; a test that changes it loads its own."""
    return loaded(folder)


def parts_of(lm: AudioLM, **more) -> SimpleNamespace:
    """A model with what tests do with it."""

    def negative(name, batch, samples, partners=None):
        return negatives.find(name)(batch, samples, lm.reader, partners)

    def close(found, expected, near=NEAR) -> None:
        assert found.shape == expected.shape
        assert (found - expected).abs().max() <= near * expected.abs().max()

    return SimpleNamespace(
        lm=lm, model=lm.module, reader=lm.reader, batch=lm.reader.collate,
        hidden=lambda batch: lm.hidden(lm.prepare(batch)), negative=negative, close=close, **more,
    )  # fmt: skip


@pytest.fixture
def parts(lm):
    """The model with what tests do with it; replaces that of our own family."""
    return parts_of(lm, processor=lm.reader.processor)


def assert_alone(parts: SimpleNamespace, samples: Sequence[Sample], pad: str) -> list[torch.Tensor]:
    """Compare the states of samples in one batch with those of each alone, which are returned."""
    together = parts.batch(samples, pad=pad)
    assert (together.attention_mask == 0).any()
    apart = [parts.hidden(parts.batch([each], pad=pad)) for each in samples]
    parts.close(parts.hidden(together), torch.cat(apart))
    return apart


def audio(key: str, seconds: float) -> np.ndarray:
    """Noise that depends on the key."""
    rng = np.random.default_rng(list(key.encode()))
    return (0.3 * rng.standard_normal(round(seconds * 16_000))).astype(np.float32)


def sample(key: str, *seconds: float, question="Is the tone high or low?", answer="It is low.", **record) -> Sample:
    """A sample with a clip of each of these lengths."""
    clips = [audio(f"{key}{n}", each) for n, each in enumerate(seconds)]
    values = {
        "id": key, "audios": [{"path": "", "text": f"beep {n}"} for n in range(len(clips))], "response": answer,
        "messages": [{"role": "user", "content": user_content(question, audios=len(clips))}],
    }  # fmt: skip
    return Sample(key, values | record, clips)


@pytest.fixture
def samples() -> list[Sample]:
    """Four samples of unequal length: of one, two and three clips, and without any."""
    return [
        sample("a", 0.5),
        sample("b", 1.3, 0.25, question="Is it low?", answer="The tone is high."),
        sample("c", 0.4, 2.0, 0.1, answer="It is"),
        sample("d", question="Is the tone low?", answer="low"),
    ]


def own_logits(model, batch) -> torch.Tensor:
    """Compute the family's own logits, float32 [B, S, V], by its complete forward."""
    return model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, **batch.placed()).logits.float()
