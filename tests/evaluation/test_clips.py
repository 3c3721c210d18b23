"""Negative shuffled in evaluation: which audio replaces an item's."""

import shutil

import pytest
import torch

from caad_ds.evaluation.benchmarks.mcr_bench import Benchmark
from caad_ds.generation.model import Model
from caad_ds.models.families.caad_speech_lm import SpeechAudioLM
from caad_ds.utils.errors import UserError


@pytest.fixture
def loaded(model_folder, monkeypatch):
    """The model, with its features as prepared audio, which identify the clip."""
    monkeypatch.setattr(SpeechAudioLM, "encode", lambda self, audio: audio)
    return Model.load(model_folder, torch.device("cpu"))


def items_of(benchmark):
    return [item for row in Benchmark.load(benchmark).rows for item in row.items()]


def partners(loaded, asked, others):
    """Return, for each item's key, the clip that replaces its own."""
    clips = loaded.clips(others)
    heard = clips.encode(asked)
    second = clips.negative(heard, clips.prompts(heard), "shuffled")
    known = {}
    for item in loaded.clips().encode(others):
        [features] = loaded.reader.features([item.clips[0].load()]).audio["features"]
        known[features.numpy().tobytes()] = item.clips[0]
    features = second.audio["features"][second.audio_index]
    return {item.key: known[each.numpy().tobytes()] for item, each in zip(heard, features, strict=True)}


def test_a_partner_is_anothers_clip_by_the_items_key_alone(loaded, conflicts):
    items = items_of(conflicts)
    found = partners(loaded, items, items)
    assert all(found[item.key] not in item.clips for item in items)
    assert len(set(found.values())) > 3
    assert partners(loaded, items[::-1], items) == found
    assert partners(loaded, [items[5]] * 2, items) == {items[5].key: found[items[5].key]}


def test_the_same_audio_in_another_file_is_no_partner(loaded, make_benchmark):
    benchmark = make_benchmark("twins", {"gender": 3})
    audio = benchmark / "gender" / "audio"
    shutil.copy(audio / "0.wav", audio / "1.wav")
    items = items_of(benchmark)
    assert {partner.path.name for partner in partners(loaded, items[:8], items).values()} == {"2.wav"}


def test_what_cannot_be_heard_is_nobodys_partner(loaded, conflicts):
    for number in (1, 2, 3):
        (conflicts / "gender" / "audio" / f"{number}.wav").write_bytes(b"no audio")
    items = [item for item in items_of(conflicts) if item.subset == "gender"]
    with pytest.raises(UserError, match="negative shuffled: there is no other clip to take audio from; choose another"):
        partners(loaded, items[:4], items)
    items = items_of(conflicts)
    assert {partner.path.parent.parent.name for partner in partners(loaded, items[:4], items).values()} == {"noise"}
