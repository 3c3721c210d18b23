"""A small model with batches, all in this process."""

from types import SimpleNamespace

import pytest
import torch

from caad_ds.data.audio.decoded import Sample
from caad_ds.data.batch import Batch
from caad_ds.models.prompts.prompt_encoder import PromptEncoder
from caad_ds.models.prompts.train_tokenizer import train_tokenizer
from caad_ds.models.speech_lm.features import with_features
from tests.models.small import POSITIONS, QUERIES, make_model, sample
from tests.tolerance import assert_close, path
from tests.training.tiny import encoder


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    """A tokenizer that knows the tests' words."""
    texts = ["The tone is high.", "It is low.", "beep Is the tone high or low?"] * 3
    return train_tokenizer(texts, 60, tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def ears():
    """The encoder."""
    return encoder()


@pytest.fixture
def parts(tokenizer, ears):
    """Model, encoder, prompter, `batch(samples, pad=...)` with features, `close(found, expected)` up to rounding."""
    prompter = PromptEncoder(tokenizer, QUERIES)

    def batch(samples: list[Sample], **kwargs) -> Batch:
        return with_features(prompter.batch(samples, **kwargs), samples, ears)

    made = SimpleNamespace(model=make_model(tokenizer, ears), encoder=ears, prompter=prompter, batch=batch)
    made.close = lambda found, expected: assert_close(found, expected, path(made.model, ears, positions=POSITIONS))
    return made


@pytest.fixture
def samples() -> list[Sample]:
    """Three samples of unequal length; the second has two audios."""
    return [sample("a"), sample("b", audios=2, text="beep beep"), sample("c", text="", response="The tone is high.")]


@pytest.fixture(autouse=True)
def no_grad():
    """Nothing here trains."""
    with torch.no_grad():
        yield
