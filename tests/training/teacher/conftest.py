"""Other data than the tiny world's."""

import json
from pathlib import Path

import pytest

from data_prep.pack import pack
from tests.command import run_command
from tests.training.tiny import records


@pytest.fixture
def others(tmp_path):
    """Pack six other samples into a folder."""

    def pack_others(folder: Path) -> Path:
        (root := tmp_path / "records").mkdir()
        rows = [row | {"id": f"other-{row['id']}", "response": f"Now {row['response']}"} for row in records(root, 6)]
        manifest = root / "answered.jsonl"
        manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert run_command(pack, "--manifest", manifest, "--out", folder) == 0
        return folder

    return pack_others
