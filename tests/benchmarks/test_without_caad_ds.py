"""The comparison with an environment without caad_ds: that it sees a difference, and refuses an environment with it."""

import sys

import pytest

from benchmarks import without_caad_ds


@pytest.mark.parametrize(("auto", "status"), [([1, 2], 0), ([1, 3], 1)])
def test_one_token_decides(monkeypatch, tmp_path, capsys, auto, status):
    result = {"answers": [{"pipeline": [1, 2], "AutoModel": auto}], "versions": {"Python": "3"}}
    monkeypatch.setattr(without_caad_ds, "elsewhere", lambda *_: result)
    monkeypatch.setattr(without_caad_ds, "by_caad_ds", lambda *_: ([[1, 2]], ["yes"]))
    argv = ["--model", str(tmp_path), "--python", "python", "--question", "Is it?", "a.wav"]
    monkeypatch.setattr(sys, "argv", ["without_caad_ds.py", *argv])
    assert without_caad_ds.main() == status
    printed = capsys.readouterr().out
    assert "pipeline: 1 of 1 answers" in printed and f"AutoModel: {1 - status} of 1 answers" in printed


def test_an_environment_with_this_package_is_refused(tmp_path):
    with pytest.raises(SystemExit, match=r"caad_ds.* can be imported there; give the python of another environment"):
        without_caad_ds.by_transformers(str(tmp_path), [])
