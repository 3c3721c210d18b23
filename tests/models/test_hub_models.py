"""Hub ids, looked up before a run starts."""

import json

import pytest
from huggingface_hub import constants

from caad_ds.models.hub_models import check_hub_id
from caad_ds.models.model_hashes import encoder_commit
from caad_ds.utils.errors import UserError


@pytest.mark.parametrize("name", ["nobody/nothing", "my models/llm", "org/name@main", "x/y:z", "a/b.git", "o--x/y"])
def test_what_is_no_model_of_the_hub_is_one_line(name):
    with pytest.raises(UserError, match="no such folder, and no model of that id could be downloaded") as caught:
        check_hub_id(name)
    assert str(caught.value).startswith(f"{name}: ") and "\n" not in str(caught.value)


def test_what_is_in_the_cache_is_not_asked_for(tmp_path, monkeypatch):
    (tmp_path / "models--org--name" / "snapshots").mkdir(parents=True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    check_hub_id("org/name")


def test_the_commit_of_an_encoder_that_a_folder_names(tmp_path, monkeypatch):
    """Of a hub id alone: other encoders are hashed with the model."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "hub/models--lab--ears"
    (repository / "snapshots/0123").mkdir(parents=True)
    (repository / "snapshots/0123/config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("0123")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").touch()
    for encoder, commit in (("lab/ears", "0123"), (None, None), (str(repository), None)):
        (folder / "config.json").write_text(json.dumps({"model_type": "caad_speech_lm", "encoder": encoder}))
        assert encoder_commit(folder) == commit
