"""Batches by a budget of tokens: the same curve on any number of ranks, and little padding."""

import pytest

from tests.training.alike import assert_same_curves
from tests.training.launching import Run, curve, train
from tests.training.tiny import config

BUDGET = {"batch_size": None, "micro_batch": None, "batch_tokens": 640, "micro_tokens": 160}


@pytest.mark.slow
def test_one_rank_and_two_see_the_same_steps(world, tmp_path, terms):
    for ranks in (1, 2):
        out = tmp_path / f"ranks-{ranks}"
        train(config(world, out, optimizer=BUDGET), ranks)
        assert max(value for _, value in curve(out, "train/padding")) < 0.15
    assert_same_curves(tmp_path / "ranks-2", tmp_path / "ranks-1", terms)


@pytest.mark.parametrize(
    ("changes", "ranks", "expected"),
    [
        ({"micro_tokens": 320}, 3, "optimizer.batch_tokens 640 is not a multiple of 3 ranks x micro_tokens 320"),
        ({"micro_tokens": 16}, 1, "have more than optimizer.micro_tokens 16"),
        ({"micro_tokens": 150}, 1, "batch_tokens 640 is not a multiple of micro_tokens 150"),
        ({"micro_tokens": None}, 1, "batch_tokens needs micro_tokens"),
        ({"batch_size": 16}, 1, "batch_size: not read with batch_tokens"),
    ],
)
def test_a_budget_that_does_not_fit_is_named(world, tmp_path, changes, ranks, expected):
    run = Run(config(world, tmp_path / "out", optimizer=BUDGET | changes), ranks)
    assert run.wait() == [2] * ranks and expected in run.output()
