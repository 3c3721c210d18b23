"""Which checkpoints stay: the newest, the best by a validation metric, the milestones."""

import json

import pytest

from caad_ds.config.schema import CheckpointSection
from caad_ds.training.checkpoints.retention import kept
from tests.training.launching import curve, train
from tests.training.tiny import config

PASSES = {2: {"ce": 3.0, "agreement": 0.9}, 4: {"ce": 1.0, "agreement": 0.1}, 6: {}, 8: {"ce": 1.0}, 10: {"ce": 2.0}}


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"keep": 2}, {8, 10}),
        ({"keep": 9}, {2, 4, 6, 8, 10}),
        ({"keep": 1, "keep_best": 1}, {4, 10}),
        ({"keep": 1, "keep_best": 2}, {4, 8, 10}),
        ({"keep": 1, "keep_best": 1, "best_metric": "agreement"}, {2, 10}),
        ({"keep": 1, "keep_best": 9, "best_metric": "agreement"}, {2, 4, 10}),
        ({"keep": 1, "keep_best": 2, "best_metric": "kd"}, {10}),
        ({"keep": 1, "milestone_every": 4}, {4, 8, 10}),
    ],
)
def test_what_is_kept(section, expected):
    assert kept(CheckpointSection(every=2, **section), PASSES) == expected


def test_a_pass_that_gave_no_number_does_not_compete():
    passes = {2: {"ce": 3.0}, 4: {"ce": float("nan")}, 6: {"ce": float("inf")}, 8: {}}
    assert kept(CheckpointSection(every=2, keep=1, keep_best=3), passes) == {2, 8}


@pytest.mark.slow
def test_a_run_keeps_its_best_and_its_milestones(world, tmp_path):
    out = tmp_path / "out"
    section = {"every": 2, "keep": 1, "keep_best": 1, "best_metric": "token_accuracy", "milestone_every": 6}
    file = config(
        world,
        out,
        optimizer={"steps": 13, "lr": 0.05},
        data={"validation": str(world / "shards")},
        validation={"every": 4},
        checkpoint=section,
    )
    train(file)
    measured = dict(curve(out, "validation/token_accuracy"))
    assert list(measured) == [4, 8, 12, 13]
    best = max(measured, key=lambda step: (measured[step], -step))
    folders = {int(path.name.removeprefix("step-")): path for path in (out / "checkpoints").glob("step-*")}
    assert folders.keys() == {best, 6, 12, 13}
    for step, folder in folders.items():
        recorded = json.loads((folder / "state.json").read_text())["state"]["validation"]
        assert recorded.get("token_accuracy") == measured.get(step)
