"""`caad-ds cache-teacher` on two ranks that are killed inside writes, and on a disk that is full."""

import random
from functools import partial
from pathlib import Path

import pytest

from caad_ds.distill.teacher_cache.segments import read_segments
from caad_ds.training.teacher import cache_filling, cache_teacher
from caad_ds.utils.errors import UserError
from data_prep.verify import verify
from tests.command import run_command
from tests.training.disk import remount
from tests.training.launching import Run
from tests.training.teacher.in_process import batch_dependent, rows_of, with_cache
from tests.training.teacher.kills import WAIT, kill_at_random, killed
from tests.training.teacher.ranks import full_on_one

# Rows of a sample by itself: after a kill the missing samples form other batches, whose rounding differs.
ARGUMENTS = ("--batch", "1")
MOMENTS = ["rows:3", "index:0", "rows:0", "rows:7"]


def run(file: Path, prepare=batch_dependent, **env: str) -> Run:
    """Start the command on two ranks."""
    return Run(file, 2, *ARGUMENTS, env=env, prepare=prepare, command="cache-teacher")


def finish(file: Path) -> None:
    """Fill the rest."""
    started = run(file)
    assert started.wait(WAIT) == [0, 0], started.output()


@pytest.fixture(scope="module")
def undisturbed(world, tmp_path_factory) -> dict[str, str]:
    """The rows of a cache that was filled without a kill."""
    root = tmp_path_factory.mktemp("undisturbed")
    finish(with_cache(world, root / "out", root / "cache"))
    return rows_of(root / "cache")


def test_kills_inside_writes(world, undisturbed, tmp_path):
    """Inside the rows of a segment, and between its rows and its index."""
    file = with_cache(world, tmp_path / "out", tmp_path / "cache")
    assert [killed(partial(run, file), rank, at) for rank, at in ((0, "rows:7"), (1, "index:0"))] == [True, True]
    finish(file)
    assert rows_of(tmp_path / "cache") == undisturbed
    assert run_command(verify, tmp_path / "cache") == 0


@pytest.mark.slow
def test_20_kills(world, undisturbed, tmp_path):
    """At random moments and within writes, five in each cache."""
    seed = random.randrange(10**6)
    drawn = random.Random(seed)
    done, caches = 0, 0
    while done < 20:
        caches += 1
        cache = tmp_path / f"cache-{caches}"
        file = with_cache(world, tmp_path / f"out-{caches}", cache)
        done += kill_at_random(partial(run, file), drawn, MOMENTS, "loading models and data", cache)
        finish(file)
        assert rows_of(cache) == undisturbed, seed
        assert run_command(verify, cache) == 0, seed


@pytest.mark.parametrize("publish", ["", pytest.param("1", marks=pytest.mark.slow)], ids=["rows", "publish"])
def test_the_disk_of_one_rank_is_full(world, undisturbed, tmp_path, publish):
    """Both ranks stop with one line, and the same command computes the rest."""
    file = with_cache(world, tmp_path / "out", tmp_path / "cache", cache={"when_full": "continue"})
    stopped = run(file, full_on_one, FULL="1", FULL_IN_PUBLISH=publish)
    assert stopped.wait(WAIT) == [2, 2], stopped.output()
    errors = [line for rank in range(2) for line in stopped.output(rank).splitlines() if "error" in line.lower()]
    assert len(errors) == 1 and f"no space left for {tmp_path / 'cache'}" in errors[0] and "(rank 1)" in errors[0]
    read_segments(tmp_path / "cache")
    finish(file)
    assert rows_of(tmp_path / "cache").keys() == undisturbed.keys()
    assert run_command(verify, tmp_path / "cache") == 0


def test_a_real_disk_that_is_full(world, disk, tmp_path, monkeypatch, capsys):
    """What was published stays, and with more space the same command computes the rest."""
    monkeypatch.setattr(cache_filling, "ROUNDS", 1)
    folder = disk(32) / "cache"
    file = with_cache(world, tmp_path / "out", folder)
    with pytest.raises(UserError, match=f"no space left for {folder}: free some"):
        run_command(cache_teacher, "--config", file, "--batch", 4)
    there = rows_of(folder)
    assert len(there) < 24 and not list(folder.glob("*.partial"))
    remount(folder.parent, "size=4000k")
    capsys.readouterr()
    assert run_command(cache_teacher, "--config", file, "--batch", 4) == 0
    assert f"{24 - len(there)} samples computed; 24 samples" in "".join(capsys.readouterr())
    assert there.items() <= rows_of(folder).items() and run_command(verify, folder) == 0
