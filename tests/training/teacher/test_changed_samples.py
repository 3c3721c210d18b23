"""Samples that a cache has only by their key: they have changed since, or another student could not use them."""

import json
import shutil
from pathlib import Path

import pytest

from caad_ds.data.sampler import GlobalOrder
from caad_ds.utils.errors import UserError
from tests.training.teacher.conftest import new, packed
from tests.training.teacher.in_process import filled, rows_of, same_weights, trained, with_cache
from tests.training.tiny import CLIPS, records

pytestmark = pytest.mark.usefixtures("alone")

WHOLE, NOT_LOADED = "whole (", "it is not loaded"
CHANGED, NEW, COUNT, BATCH = 7, 24, 25, 5


@pytest.fixture(scope="module")
def made(world, alone, tmp_path_factory):
    """A complete cache of the tiny world; not to be changed."""
    root = tmp_path_factory.mktemp("filled")
    filled(with_cache(world, root / "out", root / "cache"))
    return root / "cache"


@pytest.fixture
def cache(made, tmp_path) -> Path:
    """A complete cache of the tiny world that a test may change."""
    return shutil.copytree(made, tmp_path / "cache")


def first_new_then_changed() -> tuple[int, int]:
    """A seed with which the new sample comes in a step before the changed one's; the step of the new one."""
    for seed in range(100):
        order = GlobalOrder(COUNT, BATCH, seed)
        steps = [next(s for s in range(COUNT // BATCH) if n in order.batch(s)) for n in (NEW, CHANGED)]
        if steps[0] + 1 < steps[1]:
            return seed, steps[0]
    raise AssertionError("no such seed")


def test_a_changed_sample_after_the_last_key_that_was_missing(world, cache, tmp_path):
    """All keys are there from the new sample's step on; the changed one still needs the teacher, also after a kill."""
    rows = records(root := new(tmp_path / "more"), COUNT)
    rows[CHANGED]["response"] = "The tone is low."
    seed, step = first_new_then_changed()
    changes = {
        "run": {"seed": seed}, "data": {"train": str(packed(rows, root, tmp_path / "more_shards"))},
        "optimizer": {"steps": 7, "batch_size": BATCH}, "checkpoint": {"every": 1},
    }  # fmt: skip
    other = shutil.copytree(cache, tmp_path / "other")
    left_alone = trained(with_cache(world, tmp_path / "alone", other, **changes))
    assert left_alone.said.count(WHOLE) == 1
    assert left_alone.said.index("step 5/7") < left_alone.said.index(WHOLE)

    file = with_cache(world, tmp_path / "killed", cache, **changes)
    assert trained(file, step=step + 1).killed
    again = trained(file)
    assert NOT_LOADED not in again.said and WHOLE in again.said
    assert same_weights(tmp_path / "alone", tmp_path / "killed") and rows_of(other) == rows_of(cache)
    assert not list(cache.glob("*.filling"))
    assert NOT_LOADED in trained(with_cache(world, tmp_path / "reads", cache, **changes)).said


def test_cache_teacher_ends_what_a_killed_training_has_begun(world, tmp_path):
    file = with_cache(world, tmp_path / "out", tmp_path / "cache", checkpoint={"every": 1})
    assert trained(file, step=1).killed and list((tmp_path / "cache").glob("*.filling"))
    filled(file)
    assert NOT_LOADED in trained(file).said


def note_unusable(cache: Path, key: str, drop: str | None = None) -> None:
    """Let a sample of a cache be one that was noted as unusable; leave another one out."""
    [index] = cache.glob("*-??????.json")
    values = json.loads(index.read_text())
    values["samples"] = [[k, "", at, 0, ""] if k == key else [k, c, at, *rest] for k, c, at, *rest in values["samples"]]
    values["samples"] = [each for each in values["samples"] if each[0] != drop]
    index.write_text(json.dumps(values))


@pytest.mark.parametrize("fill", [True, False])
def test_a_sample_that_another_student_could_not_use(world, cache, tmp_path, fill):
    """It is refused before the first step, with the true reason, and the command that it names computes it."""
    note_unusable(cache, "clip-05")
    file = with_cache(world, tmp_path / "out", cache, cache={"fill": fill}, data={"skip_broken": True})
    with pytest.raises(UserError) as caught:
        trained(file)
    assert str(caught.value) == (
        f"sample clip-05: teacher.cache.path {cache} has no rows of it (the run that filled it noted it as unusable, "
        "such as for another student; this run can use it); compute them with the teacher: `caad-ds cache-teacher "
        "--config FILE`, or for a stream a training with teacher.cache.fill true"
    )
    filled(file)
    assert NOT_LOADED in trained(file).said


def test_a_run_with_the_teacher_computes_what_another_student_could_not_use(world, cache, tmp_path):
    """It comes in the last step, when all keys have been there since the first."""
    order = GlobalOrder(CLIPS, 8, 0)
    noted, missing = (f"clip-{order.batch(step)[0]:02d}" for step in (2, 0))
    note_unusable(cache, noted, drop=missing)
    changes = {"run": {"seed": 0}, "checkpoint": {"every": 1}}
    said = trained(with_cache(world, tmp_path / "out", cache, **changes)).said
    assert WHOLE in said and NOT_LOADED in trained(with_cache(world, tmp_path / "reads", cache)).said
