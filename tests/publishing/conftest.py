"""A finished run on shards whose corpora have names that would break a card, and an evaluation of its model."""

import json
from pathlib import Path

import pytest

from caad_ds import cli
from data_prep.pack import pack
from tests.command import run_command
from tests.evaluation.conftest import write_benchmark
from tests.training.conftest import world
from tests.training.launching import train
from tests.training.tiny import config, records

__all__ = ["world"]

HOSTILE = "a | b\n---\nlicense: mit\n<script>`x`</script> [y](z) {{ 7 * 7 }}"
NAME = 'tiny: "one" | <b>two</b>, of /absent/home/three'


@pytest.fixture(scope="session")
def finished(world, tmp_path_factory) -> Path:
    """The folder of the run; not to be changed."""
    root = tmp_path_factory.mktemp("published")
    rows = [row | {"source": HOSTILE if n % 3 else f"local: {root / 'corpus'}"} for n, row in enumerate(records(root))]
    (root / "answered.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run_command(pack, "--manifest", root / "answered.jsonl", "--out", root / "shards") == 0
    changes = {"run": {"name": NAME}, "data": {"train": str(root / "shards")}, "tracking": {"enabled": False}}
    train(config(world, root / "out", **changes, optimizer={"steps": 2}, checkpoint={"every": 1}), 2)
    return root / "out"


@pytest.fixture(scope="session")
def evaluated(finished, tmp_path_factory) -> Path:
    """The folder of an evaluation of that run's model."""
    folder = tmp_path_factory.mktemp("evaluated")
    benchmark = write_benchmark(folder / "benchmark", {"gender": 6})
    argv = ["evaluate", "--model", finished, "--benchmark", benchmark, "--out", folder / "scores", "--device", "cpu"]
    assert cli.main([*map(str, argv), "--name", "tiny | one"]) == 0
    return folder / "scores"
