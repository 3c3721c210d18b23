"""What a line of JSONL may not hold: one value of a key would be lost, or a later step would fail."""

import json

import pytest

from caad_ds.cli import main
from caad_ds.data.record import RecordFault, as_record
from caad_ds.evaluation.benchmarks.prompt_manifest import rows
from data_prep.common.jsonl import Rejected, read_rows
from data_prep.ingest import sources
from data_prep.ingest.table import Reading


def read(path):
    return [row for _, row in read_rows(path)]


@pytest.mark.parametrize("line", ['{"id": "a", "mood": "calm", "mood": "angry"}', '{"a": {"b": 1, "b": 1}, "id": "a"}'])
def test_a_key_that_comes_twice_is_no_object_in_data_and_benchmarks(tmp_path, line):
    (tmp_path / "m.jsonl").write_text(f'{line}\n{{"id": "b"}}\n')
    bad, good = read(tmp_path / "m.jsonl")
    assert isinstance(bad, Rejected) and "comes twice" in bad.reason and good == {"id": "b"}
    (_, _, fault), (_, _, row) = rows(tmp_path / "m.jsonl")
    assert "comes twice" in str(fault) and row == {"id": "b"}


def test_a_line_of_nothing_but_a_byte_order_mark_is_blank(tmp_path):
    (tmp_path / "m.jsonl").write_bytes(b'\xef\xbb\xbf{"id": "a"}\r\n\xef\xbb\xbf\r\n\xef\xbb\xbf')
    assert read(tmp_path / "m.jsonl") == [{"id": "a"}]
    assert [row for _, _, row in rows(tmp_path / "m.jsonl")] == [{"id": "a"}]


@pytest.mark.parametrize("identity", [True, False])
def test_a_boolean_is_no_id(tmp_path, identity):
    (tmp_path / "m.jsonl").write_text(json.dumps({"id": identity, "audio": "a.wav"}) + "\n")
    (found,) = sources.read("jsonl", tmp_path / "m.jsonl", Reading())
    assert isinstance(found, Rejected) and "field 'id' must be a text" in found.reason


@pytest.mark.parametrize("field", ["offset", "duration"])
def test_seconds_beyond_floating_point_are_rejected_and_stop_no_others(tmp_path, field):
    audio = {"path": "a.wav", "offset": 1, "duration": 1} | {field: 10**400}
    row = {"id": "a", "audios": [audio], "messages": [{"role": "user", "content": "<|AUDIO|>"}], "response": "Yes."}
    with pytest.raises(RecordFault, match=f"'{field}' of an audio must be a number of seconds"):
        as_record(row)
    (tmp_path / "m.jsonl").write_text(json.dumps(row) + "\n")
    assert main(["prep", "pack", "--manifest", str(tmp_path / "m.jsonl"), "--out", str(tmp_path / "out")]) == 2
