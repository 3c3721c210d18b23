"""Inputs that follow from a config, against those of the family's real processor."""

import json
import shutil
from importlib import import_module
from pathlib import Path

import pytest
import torch

from caad_ds.models import auto
from caad_ds.models.families import granite_speech
from caad_ds.training.plan import audio_inputs as module
from caad_ds.training.plan.audio_inputs import COUNTED, audio_inputs
from caad_ds.training.plan.meta_models import student_of
from caad_ds.training.plan.rehearsal import Shape, rehearse
from caad_ds.utils.errors import UserError
from tests.models.families.tiny import granite_speech as tiny_granite
from tests.training.plan.test_flops import config

LENGTHS = [0.03, 0.25, 0.5, 0.735, 1.0, 1.02, 1.5, 2.0, 2.01, 2.98765, 3.0]


@pytest.fixture(params=COUNTED)
def folder(request, tmp_path, monkeypatch) -> Path:
    """A tiny model with its processor; Granite's pads to 30 s, as published ones do."""
    monkeypatch.setattr(tiny_granite, "SECONDS", granite_speech.SECONDS)
    return import_module(f"tests.models.families.tiny.{request.param}").write(tmp_path / "model")


def model(name: Path):
    """The model on the meta device."""
    return student_of(config(str(name), {"path": str(name)}, "connector"), None)


def architecture(folder: Path) -> Path:
    """Its config.json alone, as an architecture."""
    return Path(shutil.copy(folder / "config.json", folder.parent / "architecture.json"))


def folder_of_config(folder: Path) -> Path:
    """Its config.json alone, in a folder, as that of a hub id."""
    made = folder.parent / "config_alone"
    made.mkdir()
    shutil.copy(folder / "config.json", made)
    return made


@pytest.mark.parametrize("given", [architecture, folder_of_config])
def test_a_config_gives_what_the_processor_gives(folder, given):
    """Shapes, masks and numbers of positions, at lengths around the borders of frames and windows."""
    whole, alone = model(folder), model(given(folder))
    for seconds in LENGTHS:
        theirs, positions = audio_inputs(whole, seconds)
        ours, counted = audio_inputs(alone, seconds)
        assert counted == positions, seconds
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            assert value.shape == theirs[name].shape and value.is_meta == theirs[name].is_meta, (name, seconds)
            assert value.is_meta or torch.equal(value.long(), theirs[name].long()), (name, seconds)


def test_a_step_of_an_architecture_costs_the_same(folder):
    """So FLOPs are within 2% of the profiler's, as those with a folder are (test_flops.py)."""
    shape = Shape(2, 8, 4, 12, 2, 1.5)
    whole, alone = (rehearse(model(each), None, None, shape) for each in (folder, architecture(folder)))
    assert whole == alone


@pytest.fixture
def unknown(tmp_path, monkeypatch) -> Path:
    """A model of a family that no entry describes."""
    monkeypatch.delitem(module.COUNTED, "qwen3_asr")
    return import_module("tests.models.families.tiny.qwen3_asr").write(tmp_path / "model")


def test_another_family_needs_its_processor(unknown):
    named = "give a folder with config.json and the processor's files .processor_config.json"
    with pytest.raises(UserError, match=named):
        audio_inputs(model(architecture(unknown)), 1.0)


def test_the_processor_of_a_hub_id_is_downloaded(unknown, monkeypatch):
    """Only its small files, and only for such a family."""
    asked, expected = [], audio_inputs(model(unknown), 1.0)[1]

    def local_folder(name: str, files: tuple[str, ...]) -> Path:
        asked.append(files)
        target = unknown.parent / f"cached{len(asked)}"
        target.mkdir()
        for pattern in files:
            for file in unknown.glob(pattern):
                shutil.copy(file, target)
        return target

    monkeypatch.setattr(auto, "local_folder", local_folder)
    hub = model(Path("lab/asr"))
    assert json.loads((hub.described.folder / "config.json").read_text()) and asked == [("config.json",)]
    assert audio_inputs(hub, 1.0)[1] == expected
    assert asked[1:] == [auto.PROCESSOR] and not list((unknown.parent / "cached2").glob("*.safetensors"))
