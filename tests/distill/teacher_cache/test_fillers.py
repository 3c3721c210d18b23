"""Who may fill a cache at the same time."""

import pytest

from caad_ds.distill.teacher_cache.fillers import WHOLE, filling
from caad_ds.utils.array_part import Part
from caad_ds.utils.errors import UserError


@pytest.fixture
def cache(tmp_path):
    """An empty folder."""
    (folder := tmp_path / "cache").mkdir()
    return folder


def test_parts_of_one_command_fill_together(cache):
    with filling(cache, Part(0, 2), ["a"]), filling(cache, Part(1, 2), ["a"]):
        pass


@pytest.mark.parametrize(
    ("part", "data", "message"),
    [
        (Part(1, 3), "a", r"another command fills it, in 2 parts \(this one in 3\) or from other data; wait"),
        (Part(1, 2), "b", r"another command fills it, in 2 parts \(this one in 2\) or from other data; wait"),
        (Part(0, 2), "a", "another process is writing"),
        (WHOLE, "a", "another process is writing"),
    ],
)
def test_others_wait_until_it_ends(cache, part, data, message):
    with filling(cache, Part(0, 2), ["a"]):
        with pytest.raises(UserError, match=message), filling(cache, part, [data]):
            pass
        with filling(cache, Part(1, 2), ["a"]):  # the refused one has changed nothing
            pass
    with filling(cache, part, [data]):
        pass


def test_no_part_beside_a_run_that_fills_it_alone(cache):
    with filling(cache, WHOLE, ["a"]):
        with pytest.raises(UserError, match="another process is writing"), filling(cache, Part(0, 2), ["a"]):
            pass
