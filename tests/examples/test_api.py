"""The scripts of examples/api, on a tiny model and its data."""

import json
import os
import re
import runpy
import signal
import sys
from pathlib import Path

import pytest
from deepspeed.comm.torch import build_shm_op

import caad_ds
from examples.api import answer, compare, evaluate, loss, train
from tests.evaluation.benchmarks.superb_files import COUNTING, write_jsonl
from tests.evaluation.benchmarks.superb_files import row as superb_row
from tests.evaluation.conftest import write_benchmark
from tests.training.tiny import config, make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A folder with `teacher/` (a model folder), its recordings and shards."""
    build_shm_op()
    root = tmp_path_factory.mktemp("world")
    make_world(root)
    return root


def test_a_recording_is_answered(world, capsys):
    said = answer.main(str(world / "teacher"), str(world / "0.wav"), "Is the tone high or low?")
    assert len(said) == 3 and said[0] == said[1]
    assert capsys.readouterr().out == "\n".join(said) + "\n"


def test_the_loss_has_a_gradient(capsys):
    gradient = loss.main()
    assert gradient.shape == (10, 32) and 0 < gradient.norm() < 10
    numbers = [float(number) for number in re.findall(r"[0-9]+\.[0-9]+", capsys.readouterr().out)]
    assert numbers[0] == pytest.approx(0.7 * numbers[1] + 0.3 * numbers[2], abs=2e-3)  # printed to a thousandth


@pytest.mark.slow
def test_a_run_is_trained_and_leaves_the_process_as_it_was(world, capsys):
    file, out = config(world, world / "my", tracking={"enabled": False}), world / "out"
    before = dict(os.environ), signal.getsignal(signal.SIGUSR1)
    folder = train.main(str(file), str(out))
    assert folder == out / "model" and "step 3/3" in capsys.readouterr().out
    assert caad_ds.load_config(out / "config.yaml").objective.alpha == 0
    assert caad_ds.load(folder, device="cpu").answer(world / "0.wav", "Is the tone high or low?") is not None
    assert train.main(str(file), str(out)) == folder and "already finished" in capsys.readouterr().out
    assert (dict(os.environ), signal.getsignal(signal.SIGUSR1)) == before


def test_a_path_that_is_not_there_is_refused(world):
    file = config(world, world / "other", data={"train": str(world / "absent")})
    with pytest.raises(caad_ds.UserError, match="absent"):
        train.main(str(file), str(world / "other"))


def test_models_are_evaluated_and_compared(world):
    benchmark = write_benchmark(world / "benchmark", {"gender": 4, "noise": 2})
    scores = evaluate.main(str(world / "teacher"), str(benchmark), str(world / "a"))
    assert scores["groups"]["all"]["accuracy_neutral"]
    caad_ds.evaluate(world / "teacher", benchmark, world / "b", name="contrast", contrast_alpha=1.0)
    found = compare.main(str(world / "table"), str(world / "a"), str(world / "b"))
    assert [*found.systems] == ["teacher", "contrast"] and [*found.differences] == ["contrast"]
    assert (world / "table/table.md").exists()


DESCRIPTION = """
name: tones
title: Which tone
data: made here
files: [rows.json]
columns: {id: key, question: ask, choices: options, answer: right, audio: sound}
prompt: "{{ question }}"
matching: option
"""


def describe(world: Path) -> Path:
    """A description of a benchmark whose files are in `world`."""
    row = {"ask": "Is the tone high or low?", "options": ["high", "low"], "right": "low"}
    (world / "rows.json").write_text(json.dumps([row | {"key": f"r{n}", "sound": f"{n}.wav"} for n in range(2)]))
    (world / "tones.yaml").write_text(DESCRIPTION)
    return world / "tones.yaml"


def test_every_kind_of_result_is_compared(world, capsys):
    evaluate.main(str(world / "teacher"), str(describe(world)), str(world / "tones"), data=str(world))
    instances = write_jsonl(world / "superb", [superb_row(COUNTING)])
    assert evaluate.main(str(world / "teacher"), str(instances), str(world / "instances"))["dimensions"]
    for run, figures in {"tones": "accuracy", "instances": r"SPK \(1 of \d+\)"}.items():
        capsys.readouterr()
        compare.main(str(world / f"{run}_table"), str(world / run))
        assert re.match(rf"teacher: {figures} [01]\.\d\d\d\b", capsys.readouterr().out)


def ended(monkeypatch, script: str, *arguments: str) -> object:
    """The exit status of a script that is run by `python -m`."""
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *arguments])
    monkeypatch.delitem(sys.modules, f"examples.api.{script}", raising=False)
    with pytest.raises(SystemExit) as end:
        runpy.run_module(f"examples.api.{script}", run_name="__main__")
    return end.value.code


@pytest.mark.parametrize(
    ("script", "arguments", "said"),
    [
        ("answer", [], "the following arguments are required: folder, audio, question; see "),
        ("compare", ["out"], "the following arguments are required: runs; see "),
        ("compare", ["out", "absent", "other"], "absent: "),
        ("evaluate", ["absent", "b", "out", "--data", "d"], "absent: "),
        ("train", ["absent.yaml", "out"], "absent.yaml: "),
        ("loss", ["more"], "unrecognized arguments: more (it takes options alone); see "),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(script, arguments, said, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert ended(monkeypatch, script, *arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("caad-ds: error: ") and said in line


def test_a_recording_that_is_not_there_is_one_line(world, monkeypatch, capsys):
    assert ended(monkeypatch, "answer", str(world / "teacher"), "absent.wav", "Is the tone high or low?") == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("caad-ds: error: audio absent.wav: ")


def test_scripts_run_from_the_command_line(monkeypatch, capsys):
    assert ended(monkeypatch, "loss") == 0
    assert "gradient (10, 32)" in capsys.readouterr().out
