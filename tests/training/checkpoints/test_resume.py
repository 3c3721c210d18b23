"""A run that is killed or preempted ends as one that was not: bit-equal weights, the same curve, no point twice."""

import os
import random
import signal

import pytest
import torch

from benchmarks.soak import disturbed
from tests.training.launching import Run, curve, tracked, train, weights
from tests.training.tiny import config

STEPS = 14
METRICS = ("kd", "ce", "agreement", "student_entropy", "grad_norm", "lr")


@pytest.fixture(scope="module")
def undisturbed(world, tmp_path_factory):
    """The output folder of an uninterrupted run on two ranks."""
    out = tmp_path_factory.mktemp("whole") / "out"
    train(config(world, out, **changes(world)), 2)
    return out


def changes(world) -> dict:
    return {
        "optimizer": {"steps": STEPS},
        "checkpoint": {"every": 3},
        "data": {"validation": str(world / "shards")},
        "validation": {"every": 4},
    }


def assert_equal_runs(first, second) -> None:
    a, b = weights(first), weights(second)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    for metric in [f"train/{m}" for m in METRICS] + ["validation/kd", "validation/ce"]:
        assert curve(first, metric) == curve(second, metric), metric
    assert [step for step, _ in curve(second, "train/kd")] == list(range(1, STEPS + 1))


@pytest.mark.numeric
def test_a_killed_run_goes_on_as_if_nothing_had_happened(world, undisturbed):
    out = undisturbed.with_name("killed")  # one store for all
    file = config(world, out, **changes(world))
    run = Run(file, 2)
    run.wait_for("step 8/")  # two steps after the checkpoint of step 6: they are run, and may be logged, twice
    run.signal(signal.SIGKILL)
    assert run.wait() == [-signal.SIGKILL] * 2
    again = train(file, 2)
    assert "at step 6" in again and "step 7/" in again and "step 6/" not in again
    assert_equal_runs(undisturbed, out)
    assert tracked(out)[1].info.status == "FINISHED"
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["latest", "step-00000012", "step-00000014"]


@pytest.mark.slow
def test_single_ranks_killed_at_random_moments_change_nothing(world, undisturbed):
    out = undisturbed.with_name("disturbed")
    file = config(world, out, **changes(world), tracking={"enabled": False})
    seed = random.randrange(10**6)
    hits = disturbed(file, out, 5, random.Random(seed))
    a, b = weights(undisturbed), weights(out)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a), (seed, hits)
    assert hits.total() >= 3, (seed, hits)  # a run may end before the last of them
    assert {path.name for path in (out / "checkpoints").iterdir()} == {"latest", "step-00000012", "step-00000014"}


def test_usr1_checkpoints_leaves_75_and_the_same_command_completes(world, undisturbed):
    out = undisturbed.with_name("preempted")
    file = config(world, out, **changes(world))
    run = Run(file, 2)
    run.wait_for("step 4/")

    run.signal(signal.SIGUSR1)
    assert run.wait() == [75, 75], run.output()
    assert "SIGUSR1: stopped after step" in run.output()
    assert tracked(out)[1].info.status == "KILLED"
    train(file, 2)
    assert_equal_runs(undisturbed, out)
    assert tracked(out)[1].info.status == "FINISHED"


def test_one_signalled_rank_stops_all(world, tmp_path):
    file = config(world, tmp_path / "out", optimizer={"steps": 200}, tracking={"enabled": False})
    run = Run(file, 2)
    run.wait_for("step 2/")

    os.kill(run.processes[1].pid, signal.SIGUSR1)
    assert run.wait() == [75, 75], run.output()
    assert run.left_in_memory == []


def test_a_finished_run_is_not_repeated(world, undisturbed):
    file = undisturbed.with_suffix(".yaml")
    before = curve(undisturbed, "train/kd")
    assert "already finished at step 14; to train it once more set another run.output_dir" in train(file, 2)
    assert curve(undisturbed, "train/kd") == before
