"""The tiny world, made once."""

from pathlib import Path

import pytest

from tests.training.tiny import config, make_world

__all__ = ["config", "world"]


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """A folder with `shards/`, `teacher/` (a model folder), `tokenizer/`, `student.json` and `teacher.json`."""
    root = tmp_path_factory.mktemp("world")
    make_world(root)
    return root
