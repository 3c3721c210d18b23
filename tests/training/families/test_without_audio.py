"""Batches whose audio was removed, or that never had any, run the same modules as the others."""

import pytest

from tests.training.families.qwen import foreign
from tests.training.families.traces import watch_traces
from tests.training.launching import Run, curve


@pytest.mark.parametrize("mode", ["connector", pytest.param("all", marks=pytest.mark.slow)])
def test_audio_dropout_leaves_batches_without_audio(audio_world, tmp_path, mode):
    """Most micro-batches of either rank then have none, and no rank waits for another."""
    objective = {"name": "ce", "alpha": None, "audio_dropout": 0.9, "dropout_negative": "text_only"}
    changes = {"teacher": None, "objective": objective, "optimizer": {"steps": 8, "micro_batch": 1}}
    run = Run(foreign(audio_world, tmp_path / "out", mode, **changes), 2, prepare=watch_traces)
    assert run.wait() == [0, 0], run.output()
    assert all(0 < value < 10 for _, value in curve(tmp_path / "out", "train/ce"))
