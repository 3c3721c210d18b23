"""A cache of the states of a teacher that is a model of transformers: the steps of a run with it in an engine."""

import pytest

from caad_ds.models import auto
from tests.training.families.every import distilled, tiny_family, write_models, write_shards
from tests.training.teacher.in_process import same_weights, trained
from tests.training.teacher.test_cached_runs import assert_near

pytestmark = pytest.mark.usefixtures("alone")

WINDOWS = "audioflamingo3"  # whose audio is read in several windows
# What is hard of each (test_every_family.py); the others were tried once, in both forms.
CASES = [
    ("qwen2_5_omni", "pair"),
    ("granite_speech", "pair"),
    ("voxtral", "pair"),
    (WINDOWS, "pair"),
    (WINDOWS, "contrast"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "form"), CASES)
def test_filling_and_cached_runs_take_the_steps_of_an_online_one(world, tmp_path, family, form):
    write_models(tmp_path, tiny_family(family))
    reader = auto.load(tmp_path / "student").reader
    write_shards(tmp_path, reader.longest_seconds, reader.most_audios != 1)
    cache = {"path": str(tmp_path / "cache"), "form": form}
    found = {}
    for name, section in (("online", None), ("filling", cache), ("cached", cache)):
        changes = {"optimizer": {"steps": 6}, "tracking": {"enabled": False}, "teacher": {"cache": section}}
        found[name] = trained(distilled(world, tmp_path, tmp_path / name, "connector", **changes))
    assert "whole (" in found["filling"].said and "it is not loaded" in found["cached"].said
    near = 1e-4 if form == "contrast" else 1e-6
    for name in ("filling", "cached"):
        assert_near(found[name].losses, found["online"].losses, near)
    assert same_weights(tmp_path / "filling", tmp_path / "cached")
