"""A tiny model of every family of transformers, and samples that it takes."""

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest
import torch

from caad_ds.data.batch import Batch
from caad_ds.models import families
from tests.models.families import tiny
from tests.models.families.conftest import loaded, parts_of, sample
from tests.models.families.tiny import text

FAMILIES = sorted(module.name for module in iter_modules(tiny.__path__) if module.name != "text")
MAIN = ("audioflamingo3", "granite_speech", "qwen2_5_omni", "qwen2_audio", "voxtral")  # the others are slow


@pytest.fixture(
    scope="session",
    params=[name if name in MAIN else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES],
)
def made(request):
    """The tests' module of a family; skipped where its processor's packages are not installed."""
    for package in import_module(f"{families.__name__}.{request.param}").FAMILY.packages:
        pytest.importorskip(package, reason=f"{request.param} needs {package}")
    return import_module(f"{tiny.__name__}.{request.param}")


@pytest.fixture(scope="session")
def folder(made, tmp_path_factory) -> Path:
    """A model folder in the family's own layout; not to be changed."""
    return made.write(tmp_path_factory.mktemp(made.__name__.rpartition(".")[2]))


@pytest.fixture(scope="session")
def lm(folder):
    """The model, in evaluation; a test that changes it loads its own."""
    return loaded(folder)


@pytest.fixture
def samples(lm):
    """Four samples of unequal length: of one clip, of as many as the family takes, and without any."""
    several = (1.3, 0.25, 0.4)[: lm.reader.most_audios or 3]
    return [
        sample("a", 0.5),
        sample("b", *several, question="Is it low?", answer="The tone is high."),
        sample("c", min(lm.reader.longest_seconds, 5.0), answer="It is"),
        sample("d", question="Is the tone low?", answer="low"),
    ]


@pytest.fixture
def parts(made, lm):
    """The model with what tests do with it."""
    return parts_of(lm, processor_inputs=getattr(made, "processor_inputs", text.processor_inputs), cls=made.MODEL)


def own_logits(lm, batch: Batch) -> torch.Tensor:
    """The logits of the family's own class [N, V] at the answer rows."""
    out = lm.module(input_ids=batch.input_ids, attention_mask=batch.attention_mask, **lm.audio_inputs(batch))
    return out.logits.float().flatten(0, 1)[batch.answer_rows]
