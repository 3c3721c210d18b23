"""Several ranks that fill or read a teacher cache: the same losses, kills at any moment, disks that are full."""

import math
import random
import shutil
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import torch

from caad_ds.distill.teacher_cache.segments import read_segments
from caad_ds.training.teacher import cache_teacher
from data_prep.verify import verify
from tests.command import run_command
from tests.training.launching import Run, refusal, train, weights
from tests.training.teacher.in_process import batch_dependent, rows_of, same_weights, with_cache
from tests.training.teacher.kills import WAIT, kill_at_random, kill_in_filling, killed
from tests.training.teacher.ranks import full_on_one, note_losses, wait_in_writing


def finish(run: Run, status: int = 0) -> str:
    """Wait for the end of a run with one status on all ranks; what rank 0 has printed."""
    found = run.wait(WAIT)
    assert found == [status] * len(found), "\n".join(run.output(rank) for rank in range(len(found)))
    return run.output()


def losses(file: Path, ranks: int, steps: int) -> list[tuple[float, float]]:
    """Kd and ce of each step of a run with one micro-batch a rank."""
    found = file.with_suffix(".losses")
    run = Run(file, ranks, env={"LOSSES": str(found)}, prepare=note_losses)
    finish(run)
    parts = [[tuple(map(float, line.split())) for line in Path(f"{found}.{rank}").open()] for rank in range(ranks)]
    assert all(len(part) == steps for part in parts)
    return [tuple(sum(term) / ranks for term in zip(*step, strict=True)) for step in zip(*parts, strict=True)]


@pytest.mark.parametrize(("fills", "reads"), [(2, 1), pytest.param(1, 2, marks=pytest.mark.slow)])
def test_what_some_ranks_have_filled_others_read(world, tmp_path, fills, reads):
    changes = {"optimizer": {"steps": 20}}
    for ranks, name in ((fills, "filling"), (reads, "cached")):
        online = losses(with_cache(world, tmp_path / f"online-{name}", None, **changes), ranks, 20)
        found = losses(with_cache(world, tmp_path / name, tmp_path / "cache", **changes), ranks, 20)
        for a, b in zip(found, online, strict=True):
            assert all(math.isclose(x, y, rel_tol=1e-6, abs_tol=1e-9) for x, y in zip(a, b, strict=True)), name
    assert {segment.name[-12:-7] for segment in read_segments(tmp_path / "cache")} == {f"{n:05d}" for n in range(fills)}


# -- kills ----------------------------------------------------------------------------------------------------------

KILLS = {"optimizer": {"steps": 7, "batch_size": 10}, "checkpoint": {"every": 2}}
MOMENTS = ["rows:3", "index:0", "rows:0", "index:1", "rows:7"]


@pytest.fixture(scope="module")
def undisturbed(world, tmp_path_factory):
    """The folder of a run of two ranks, `out`, and of the cache that it has filled, `cache`."""
    root = tmp_path_factory.mktemp("undisturbed")
    finish(run(with_cache(world, root / "out", root / "cache", **KILLS)))
    return root


def run(file: Path, prepare=batch_dependent, **env: str) -> Run:
    """Start a training on two ranks."""
    return Run(file, 2, env=env, prepare=prepare)


def test_kills_inside_writes(world, undisturbed, tmp_path):
    """Of a segment's rows, and between rows and index, of either rank: the rows and weights of who is left alone."""
    file = with_cache(world, tmp_path / "out", tmp_path / "cache", **KILLS)
    hits = [killed(partial(run, file), number % 2, at) for number, at in enumerate(MOMENTS[:3])]
    assert hits == [True] * 3
    finish(run(file))
    assert same_weights(undisturbed / "out", tmp_path / "out")
    assert rows_of(undisturbed / "cache") == rows_of(tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.partial"))


@pytest.mark.slow
def test_20_kills_while_filling(world, undisturbed, tmp_path):
    """Killed at random moments and within writes; each cache is started again when complete."""
    seed = random.randrange(10**6)
    drawn = random.Random(seed)
    done, round_number = 0, 0
    while done < 20:
        round_number += 1
        out, cache = tmp_path / f"out-{round_number}", tmp_path / f"cache-{round_number}"
        file = with_cache(world, out, cache, **KILLS)
        done += kill_at_random(partial(run, file), drawn, MOMENTS, "building the student's engine", cache)
        finish(run(file))
        assert same_weights(undisturbed / "out", out), seed
        assert rows_of(undisturbed / "cache") == rows_of(cache), seed


@pytest.mark.slow
def test_5_kills_while_training_on_a_half_filled_cache(world, tmp_path):
    """Inside writes of either rank, and at any moment: the rows and weights of a run that is left alone."""
    made = with_cache(world, tmp_path / "made", tmp_path / "half", **KILLS)
    assert run_command(cache_teacher, "--config", made, "--shard", "0/2") == 0
    outs = tmp_path / "undisturbed", tmp_path / "killed"
    caches = [shutil.copytree(tmp_path / "half", out.with_suffix(".cache")) for out in outs]
    files = [with_cache(world, out, cache, **KILLS) for out, cache in zip(outs, caches, strict=True)]
    half = rows_of(caches[0])
    finish(run(files[0]))
    for rank, at in ((0, "rows:0"), (1, "index:0"), (1, "rows:0")):  # rank 0 then has published all of its own
        assert killed(partial(run, files[1]), rank, at)
    for seconds in (0.0, 0.02):
        assert kill_in_filling(partial(run, files[1]), caches[1], seconds) == [-9, -9]
    finish(run(files[1]))
    assert same_weights(*outs)
    rows = [rows_of(cache) for cache in caches]
    assert rows[0] == rows[1] and half.items() < rows[0].items()


def test_two_runs_that_fill_one_cache(world, tmp_path):
    """The second is refused on all its ranks, and the first loses nothing."""
    files = [with_cache(world, tmp_path / name, tmp_path / "cache") for name in ("first", "second")]
    first = Run(files[0], env={"UNTIL": str(tmp_path / "release")}, prepare=wait_in_writing)
    first.wait_for("writing begins", WAIT)
    assert f"another process is writing {tmp_path / 'cache'}: wait until it ends" in refusal(files[1], ranks=2)
    (tmp_path / "release").touch()
    assert "whole (" in finish(first)
    assert "it is not loaded" in train(files[1], 2)


@pytest.mark.parametrize("first", ["train", pytest.param("cache-teacher", marks=pytest.mark.slow)])
def test_a_training_and_cache_teacher_that_fill_one_cache(world, tmp_path, first):
    """With one config; the second is refused on all its ranks, and the first loses nothing."""
    file = with_cache(world, tmp_path / "out", tmp_path / "cache")
    ranks = {"train": 2, "cache-teacher": 1}
    [second] = ranks.keys() - {first}
    filling = Run(file, ranks[first], env={"UNTIL": str(tmp_path / "release")}, prepare=wait_in_writing, command=first)
    filling.wait_for("writing begins", WAIT)
    line = refusal(file, ranks=ranks[second], command=second)
    assert f"another process is writing {tmp_path / 'cache'}: wait until it ends" in line
    (tmp_path / "release").touch()
    assert {"train": "whole (", "cache-teacher": "24 samples computed; 24 samples"}[first] in finish(filling)
    assert run_command(verify, tmp_path / "cache") == 0 and len(rows_of(tmp_path / "cache")) == 24
    assert "it is not loaded" in train(with_cache(world, tmp_path / "reads", tmp_path / "cache"), 2)


def test_parts_of_other_commands(world, tmp_path):
    """While a part of an array job fills a cache, other parts of the job may, and nobody else."""
    file = with_cache(world, tmp_path / "out", tmp_path / "cache")
    first = Run(
        file, 1, "--shard", "0/2", env={"UNTIL": str(tmp_path / "release")}, prepare=wait_in_writing,
        command="cache-teacher",
    )  # fmt: skip
    first.wait_for("writing begins", WAIT)
    line = refusal(file, "--shard", "1/3", ranks=2, command="cache-teacher")
    assert f"teacher.cache.path {tmp_path / 'cache'}: another command fills it, in 2 parts (this one in 3)" in line
    assert "another process is writing" in refusal(file, "--shard", "0/2", command="cache-teacher")
    finish(Run(file, 1, "--shard", "1/2", command="cache-teacher"))
    (tmp_path / "release").touch()
    finish(first)
    assert run_command(verify, tmp_path / "cache") == 0 and len(rows_of(tmp_path / "cache")) == 24


# -- a full disk ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("publish", ["", pytest.param("1", marks=pytest.mark.slow)], ids=["rows", "publish"])
def test_the_disk_of_one_rank_is_full(world, tmp_path, publish):
    """All ranks stop with one line; published segments are complete, and a restart continues."""
    file = with_cache(world, tmp_path / "out", tmp_path / "cache", checkpoint={"every": 1})
    run = Run(file, 2, env={"FULL": "1", "FULL_IN_PUBLISH": publish}, prepare=full_on_one)
    said = finish(run, 2)
    errors = [line for rank in range(2) for line in run.output(rank).splitlines() if "error" in line.lower()]
    assert len(errors) == 1 and f"no space left for {tmp_path / 'cache'}" in errors[0] and "(rank 1)" in errors[0], said
    read_segments(tmp_path / "cache")
    assert "whole (" in train(file, 2)


def test_training_continues_where_the_config_says_so(world, tmp_path):
    cache = {"when_full": "continue"}
    changes = {"checkpoint": {"every": 2}}
    file = with_cache(world, tmp_path / "out", tmp_path / "cache", cache=cache, **changes)
    said = finish(Run(file, 2, env={"FULL": "1"}, prepare=full_on_one))
    assert said.count("training continues without filling it (teacher.cache.when_full)") == 1
    assert "whole (" not in said and not list((tmp_path / "cache").glob("*.partial"))
    read_segments(tmp_path / "cache")
    finish(Run(with_cache(world, tmp_path / "online", None, **changes), 2))
    found, expected = weights(tmp_path / "out"), weights(tmp_path / "online")
    assert all(torch.allclose(found[name], expected[name], atol=1e-5) for name in expected)


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("there", [False, True], ids=["no cache", "a part of it is there"])
def test_a_real_disk_that_is_full_from_the_start(world, disk, tmp_path, there, ranks):
    """Refused by default; where the config says so, training continues with the rows that are there."""
    changes = {"optimizer": {"steps": 3, "batch_size": 4, "micro_batch": 1}, "teacher": {"batch": 1}}
    folder, root = disk(400) / "cache", tmp_path / "disk"
    if there:
        made = with_cache(world, tmp_path / "made", folder, **changes)
        assert run_command(cache_teacher, "--config", made, "--shard", "0/2", "--batch", "1") == 0
        before = rows_of(folder)
    with suppress(OSError), (root / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(1024))
    stops = Run(with_cache(world, tmp_path / "stops", folder, **changes), ranks)
    said = finish(stops, 2)
    assert said.count(f"no space left for {folder}") == 1
    continues = with_cache(world, tmp_path / "out", folder, cache={"when_full": "continue"}, **changes)
    said = finish(Run(continues, ranks))
    assert said.count("training continues without filling it (teacher.cache.when_full)") == 1
    finish(Run(with_cache(world, tmp_path / "online", None, **changes), ranks))
    found, expected = weights(tmp_path / "out"), weights(tmp_path / "online")
    assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in expected)
    assert rows_of(folder) == (before if there else {})


@pytest.mark.parametrize("when", ["stop", "continue"])
def test_a_real_disk_that_is_full(world, disk, tmp_path, when):
    folder = disk(24) / "cache"
    file = with_cache(world, tmp_path / "out", folder, cache={"when_full": when})
    said = finish(Run(file, 1), 2 if when == "stop" else 0)
    assert said.count(f"no space left for {folder}") == 1
    read_segments(folder)
