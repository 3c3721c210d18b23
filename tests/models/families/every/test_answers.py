"""`Model.answer` and `Model.stream` of every family say what its batches and `generate` give."""

from dataclasses import replace

import pytest
import torch

from caad_ds.data.audio.usable_audio import SAMPLE_RATE
from caad_ds.generation import decoding
from caad_ds.generation.decoding import Contrast, generate
from caad_ds.generation.model import Model
from caad_ds.generation.sampling import Sampling
from tests.models.families.conftest import sample

QUESTION, STEPS, SEED = "Is the tone high or low?", 8, 3
SECONDS = (0.5, 0.25)
HOW = {
    "greedy": {},
    "sampled": {"temperature": 1.5, "top_p": 0.95, "seed": SEED},
    "contrasted": {"contrast_alpha": 1.5, "negative": "silence"},
    "both": {"temperature": 1.5, "seed": SEED, "contrast_alpha": 1.5, "negative": "text_only"},
}


@pytest.fixture
def model(lm):
    return Model(lm, torch.device("cpu"))


@pytest.fixture
def written(monkeypatch):
    """The tokens of each answer, as `decode` has them."""
    tokens = []

    def noted(*arguments, **options):
        tokens.append(generate(*arguments, **options))
        return tokens[-1]

    monkeypatch.setattr(decoding, "generate", noted)
    return tokens


def by_hand(parts, asked, options):
    """The tokens of the family's batch of a sample, without `Clips` and `Question`."""
    batch = parts.batch([asked], pad="left", with_answer=False)
    contrasted = negative = sampling = None
    if "contrast_alpha" in options:
        contrasted = Contrast(options["contrast_alpha"], options["negative"])
        negative = parts.lm.prepare(parts.negative(options["negative"], batch, [asked]))
    if "temperature" in options:
        sampling = Sampling(options["temperature"], options.get("top_p", 1.0), None, options["seed"])
    batch = replace(parts.lm.prepare(batch), keys=[QUESTION])
    return generate(parts.lm, batch, max_new_tokens=STEPS, contrasted=contrasted, negative=negative, sampling=sampling)


@pytest.mark.numeric
@pytest.mark.parametrize("options", HOW.values(), ids=HOW)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_answer_and_stream_are_decoding_by_hand(parts, model, written, number, options):
    if number == 0 and "contrast_alpha" in options:
        pytest.skip("there is nothing to contrast")
    if number > (parts.reader.most_audios or number):
        pytest.skip("the family takes one clip")
    asked = sample("clip", *SECONDS[:number], question=QUESTION)
    audio = [(waveform, SAMPLE_RATE) for waveform in asked.waveforms]
    said = model.answer(audio, QUESTION, max_new_tokens=STEPS, **options)
    expected = by_hand(parts, asked, options)
    assert written[0].tolist() == expected.tolist()
    assert said == parts.reader.tokenizer.decode(expected[0], skip_special_tokens=True).strip()
    assert "".join(model.stream(audio, QUESTION, max_new_tokens=STEPS, **options)) == said
    assert written[1].tolist() == expected.tolist()
    if "seed" in options:
        model.answer(audio, QUESTION, max_new_tokens=STEPS, **{**options, "seed": SEED + 1})
        assert written[2].tolist() != expected.tolist()
    if number == 1 and options == HOW["contrasted"]:
        assert written[0].tolist() != by_hand(parts, asked, {}).tolist()
