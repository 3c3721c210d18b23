"""Manifest files: moved, read with their faults, and not written over something else."""

import pytest

from caad_ds.utils.errors import UserError
from data_prep.common.jsonl import Rejected
from data_prep.common.manifest import load_manifest, read_manifest, write_manifest
from tests.data_prep.lines import read


def test_manifest_paths_survive_a_move_of_the_folder(tmp_path, manifest):
    records = load_manifest(manifest)
    assert all(record["audios"][0]["path"].startswith(str(tmp_path)) for record in records)
    write_manifest(tmp_path / "again.jsonl", records)
    assert read(tmp_path / "again.jsonl") == read(manifest)
    write_manifest(tmp_path / "elsewhere" / "again.jsonl", records)
    assert load_manifest(tmp_path / "elsewhere" / "again.jsonl") == records


def test_a_double_id_and_a_bad_line_are_rejected_from_a_manifest(write_lines):
    row = {"id": "a", "audios": [{"path": "a.wav"}]}
    path = write_lines("twice.jsonl", [row, row, "{", {**row, "id": "b"}])
    first, double, broken, last = read_manifest(path)
    assert (first["id"], last["id"]) == ("a", "b")
    assert double == Rejected("a", "twice.jsonl line 2: this id is on an earlier line as well; ids must be unique")
    assert broken.id == "twice.jsonl line 3" and "it is not JSON" in broken.reason
    with pytest.raises(UserError, match="line 2: this id is on an earlier line"):
        load_manifest(path)


def test_a_manifest_is_not_written_over_another_kind_of_file(tmp_path, manifest):
    other = tmp_path / "README.md"
    other.write_text("mine")
    with pytest.raises(UserError, match=r"name a file that ends in \.jsonl"):
        write_manifest(other, load_manifest(manifest))
    assert other.read_text() == "mine"
