"""Whole caches, and other data than the tiny world's."""

import json
from pathlib import Path

import pytest

from data_prep.pack import pack
from tests.command import run_command
from tests.training.teacher.in_process import trained, with_cache
from tests.training.teacher.mistakes import FORMS, STEPS
from tests.training.tiny import records


@pytest.fixture(scope="module")
def caches(world, alone, tmp_path_factory) -> Path:
    """A folder of whole caches, by their name in FORMS; not to be changed."""
    root = tmp_path_factory.mktemp("caches")
    for name, keys in FORMS.items():
        trained(with_cache(world, root / f"out-{name}", root / name, **STEPS | keys))
    return root


@pytest.fixture
def others(tmp_path):
    """Pack six other samples into a folder."""

    def pack_others(folder: Path) -> Path:
        rows = records(root := new(tmp_path / "records"), 6)
        rows = [row | {"id": f"other-{row['id']}", "response": f"Now {row['response']}"} for row in rows]
        return packed(rows, root, folder)

    return pack_others


@pytest.fixture
def changed(tmp_path) -> Path:
    """The tiny world's samples, of which clip-07 has another answer."""
    rows = records(root := new(tmp_path / "changed_records"))
    rows[7]["response"] = "The tone is low."
    return packed(rows, root, tmp_path / "changed")


def new(folder: Path) -> Path:
    folder.mkdir()
    return folder


def packed(rows: list[dict], root: Path, folder: Path) -> Path:
    """Pack records with answers, by a manifest in `root`."""
    manifest = root / "answered.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run_command(pack, "--manifest", manifest, "--out", folder) == 0
    return folder
