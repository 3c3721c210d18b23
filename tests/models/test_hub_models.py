"""Hub ids, looked up before a run starts."""

import pytest
from huggingface_hub import constants

from caad_ds.models.hub_models import check_hub_id
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
