"""A warm-up that lasts as long as the run is reported once."""

import json

import pytest

from caad_ds.cli import main
from tests.training.launching import Run
from tests.training.tiny import config

OFF = {"enabled": False}


def test_a_run_that_ends_before_its_warm_up_says_so_once(world, tmp_path):
    """The key is not in the config: its default is 2000."""
    short = config(world, tmp_path / "out", optimizer={"steps": 1, "warmup_steps": None}, tracking=OFF)
    run = Run(short, 2)
    assert run.wait() == [0, 0]
    [line] = [line for line in (run.output(0) + run.output(1)).splitlines() if "warmup_steps" in line]
    assert line.startswith("caad-ds: optimizer.warmup_steps is 2000 and the run has 1 step: ")
    assert "to 0.05% of optimizer.lr; set optimizer.warmup_steps below" in line


@pytest.mark.parametrize(
    ("warmup", "share"), [(11, None), (0, None), (12, "to 100% of optimizer.lr"), (24, "to 50% of optimizer.lr")]
)
def test_the_plan_notes_the_share_that_is_reached(world, tmp_path, warmup, share, capsys):
    """Also of a run in epochs: two of 24 samples in batches of 8, or 4."""
    for count, size in (({"steps": 12, "epochs": None}, 8), ({"steps": None, "epochs": 2}, 4)):
        path = config(world, tmp_path / "out", optimizer={**count, "batch_size": size, "warmup_steps": warmup})
        assert main(["plan", str(path), "--json"]) == 0
        notes = [note for note in json.loads(capsys.readouterr().out)["notes"] if "warmup" in note]
        assert len(notes) == (share is not None) and all(share in note for note in notes)
