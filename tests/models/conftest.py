"""A small model with batches, all in this process."""

from types import SimpleNamespace

import pytest
import torch

from caad_ds.data.batch import Batch
from caad_ds.data.decoded_sample import Sample
from caad_ds.models import negatives
from caad_ds.models.families.caad_speech_lm import SpeechAudioLM
from caad_ds.models.prompts.train_tokenizer import train_tokenizer
from tests.models.small import POSITIONS, make_model, sample
from tests.tolerance import assert_close, path
from tests.training.tiny import encoder


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    """A tokenizer that knows the tests' words."""
    texts = ["The tone is high.", "It is low.", "beep Is the tone high or low?"] * 3
    return train_tokenizer(texts, 60, tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def speech_encoder():
    """The encoder."""
    return encoder()


@pytest.fixture
def parts(tokenizer, speech_encoder):
    """An audio LM and its reader, with what tests do with them.

    `batch(samples, pad=...)` collates, `negative(name, batch, samples, partners)` makes the second path,
    `hidden(batch)` encodes and runs it, `close(found, expected)` compares up to rounding.
    """
    lm = SpeechAudioLM(make_model(tokenizer, speech_encoder), speech_encoder, tokenizer)

    def negative(name: str, batch: Batch, samples: list[Sample], partners: negatives.Partners | None = None) -> Batch:
        return negatives.find(name)(batch, samples, lm.reader, partners)

    def close(found, expected) -> None:
        assert_close(found, expected, path(lm.module, speech_encoder, positions=POSITIONS))

    return SimpleNamespace(
        lm=lm, model=lm.module, reader=lm.reader, batch=lm.reader.collate, negative=negative, close=close,
        hidden=lambda batch: lm.hidden(lm.prepare(batch)),
    )  # fmt: skip


@pytest.fixture
def samples() -> list[Sample]:
    """Three samples of unequal length; the second has two audios."""
    return [sample("a"), sample("b", audios=2, text="beep beep"), sample("c", text="", response="The tone is high.")]


@pytest.fixture(autouse=True)
def no_grad():
    """Nothing here trains."""
    with torch.no_grad():
        yield
