"""Who may fill a cache at the same time."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from caad_ds.distill.teacher_cache.filling_state import WHOLE, filling
from caad_ds.utils.array_task import Part
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


NOBODY = 65534


@contextmanager
def other_user() -> Iterator[None]:
    """Run the body as another user than root, as which only root can."""
    ids, groups = os.getresuid(), os.getgroups()
    os.setgroups([])
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(*ids)
        os.setgroups(groups)


@pytest.mark.parametrize("part", [WHOLE, Part(0, 2)], ids=["a run", "a part"])
def test_a_cache_that_is_mounted_in_two_places(tmp_path, part):
    """As in the containers of two nodes: both may write to the folder that the cache is mounted in."""
    places = [tmp_path / name / "cache" for name in ("first", "second")]
    for place in places:
        place.mkdir(parents=True)
    (made := tmp_path / "shared").mkdir()
    mounted: list[Path] = []
    try:
        for place in places:
            if subprocess.run(["mount", "--bind", made, place], capture_output=True, check=False).returncode:
                pytest.skip("nothing can be mounted")
            mounted.append(place)
        with filling(places[0], WHOLE, ["a"]):
            with (
                pytest.raises(UserError, match=f"another process is writing {places[1]}"),
                filling(places[1], part, ["a"]),
            ):
                pass
        with filling(places[1], part, ["a"]):
            pass
    finally:
        for place in mounted:
            subprocess.run(["umount", place], check=True)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act as two users")
@pytest.mark.parametrize("mode", [0o777, 0o1777], ids=["shared", "sticky"])
def test_a_cache_of_two_users_below_the_folder_of_one(mode):
    with TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        (cache := Path(name) / "cache").mkdir()
        cache.chmod(mode)
        with filling(cache, WHOLE, ["a"]):
            with (
                other_user(),
                pytest.raises(UserError, match="another process is writing"),
                filling(cache, WHOLE, ["a"]),
            ):
                pass
        (cache / ".lock").touch(0o644)  # of the first one, killed
        with other_user(), filling(cache, WHOLE, ["a"]):
            pass
        with other_user():
            held = filling(cache, WHOLE, ["a"])
            held.__enter__()
        with pytest.raises(UserError, match="another process is writing"), filling(cache, WHOLE, ["a"]):
            pass
        held.__exit__(None, None, None)
