"""The tiny world, made once."""

import os
import shutil
from pathlib import Path

import pytest
from deepspeed.comm.torch import build_shm_op

from caad_ds.models.speech_lm.folder import load
from caad_ds.training.processes import process_group
from caad_ds.utils.progress import Heartbeat
from tests.tolerance import path
from tests.training.disk import disk
from tests.training.tiny import STORE, config, make_world

__all__ = ["config", "disk", "world"]


@pytest.fixture(scope="session")
def world(tmp_path_factory, mlflow_tables) -> Path:
    """A folder with `shards/`, `teacher/` (a model folder), `tokenizer/`, DeepSpeed's files and an empty MLflow store.

    DeepSpeed's CPU op is compiled then: no test's time limit has to hold for the compiler too, and a copy is whole.
    """
    build_shm_op()
    root = tmp_path_factory.mktemp("world")
    make_world(root)
    shutil.copy(mlflow_tables, root / STORE)
    return root


@pytest.fixture(scope="module")
def alone():
    """A process group of this process alone."""
    before = dict(os.environ)
    process_group.start(Heartbeat(enabled=False))
    yield
    process_group.stop()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def terms(world) -> int:
    """The length of the sums in a forward of the tiny world's largest model, its teacher."""
    model, encoder, _ = load(world / "teacher")
    return path(model, encoder, positions=100)  # there are fewer frames, and fewer tokens


@pytest.fixture
def made(world, tmp_path):
    """`config` of the tiny world in a folder of this test, without tracking."""
    return lambda **changes: config(world, tmp_path / "out", **({"tracking": {"enabled": False}} | changes))
