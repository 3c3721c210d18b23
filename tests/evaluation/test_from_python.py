"""Evaluation and comparison called as a notebook calls them."""

import json

import pytest

from caad_ds.evaluation import evaluate
from caad_ds.evaluation.commands import compare
from caad_ds.evaluation.comparison.compare import compare as compare_runs
from caad_ds.utils.errors import UserError
from tests.command import run_command
from tests.evaluation.conftest import scores


def test_a_notebook_evaluates_and_compares_as_the_commands_do(run, model_folder, conflicts, tmp_path, capsys):
    assert run("--name", "greedy", out="greedy") == 0
    assert run("--contrast-alpha", 1, "--negative", "silence", "--temperature", 0.5, "--top-p", 0.9, out="cd") == 0
    assert run_command(compare, tmp_path / "greedy", tmp_path / "cd", "--out", tmp_path / "table") == 0
    capsys.readouterr()
    given = {"model": model_folder, "benchmark": str(conflicts), "batch_size": 6, "device": "cpu"}
    greedy = evaluate.evaluate(**given, out=tmp_path / "n" / "greedy", name="greedy")
    sampled = {"temperature": 0.5, "top_p": 0.9}
    evaluate.evaluate(**given, out=tmp_path / "n" / "cd", contrast_alpha=1.0, negative="silence", **sampled)
    found = compare_runs([tmp_path / "n" / "greedy", str(tmp_path / "n" / "cd")], out=tmp_path / "n" / "table")
    assert capsys.readouterr().out == "", "the functions print no table"
    assert greedy == json.loads((tmp_path / "n" / "greedy" / "scores.json").read_text())
    for name in ("greedy", "cd"):
        ours, theirs = tmp_path / "n" / name, tmp_path / name
        for file in ("setup.json", "predictions.jsonl", "disagreements.jsonl"):
            assert (ours / file).read_bytes() == (theirs / file).read_bytes()
        assert scores(ours) == scores(theirs)
    ours, theirs = (json.loads((folder / "table" / "table.json").read_text()) for folder in (tmp_path / "n", tmp_path))
    assert found.systems == ours["systems"] and ours | {"speed": None} == theirs | {"speed": None}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"top_p": 0.9}, "--top-p: belongs to sampling"),
        ({"contrast_alpha": 1.0, "negative": "nothing"}, "--negative nothing: give one of zero_mel, silence"),
        ({"batch_size": 0}, "--batch-size 0: give a whole number of at least 1"),
        ({"dtype": "float16"}, "--dtype float16: give one of float32, bfloat16"),
        ({"benchmark": "absent"}, "absent: no such file or folder"),
    ],
)
def test_what_a_notebook_gives_wrong_is_refused_before_anything_is_written(
    model_folder, conflicts, tmp_path, wrong, message
):
    with pytest.raises(UserError, match=message):
        evaluate.evaluate(**{"model": model_folder, "benchmark": conflicts, "out": tmp_path / "run", **wrong})
    assert not (tmp_path / "run").exists()
