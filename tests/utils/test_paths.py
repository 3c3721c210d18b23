"""Folders that `--model` accepts, and messages for the others."""

from pathlib import Path

import pytest

from caad_ds import cli
from caad_ds.utils.errors import UserError
from caad_ds.utils.model_names import check_hub_or_folder, is_hub_id, model_folder
from caad_ds.utils.paths import existing


def make(folder, *files):
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    return folder


def test_a_run_stands_for_its_model(tmp_path, capsys):
    run = make(tmp_path / "run", "config.yaml", "model/config.json", "checkpoints/latest")
    assert model_folder(str(run)) == run / "model"
    assert capsys.readouterr().err == f"caad-ds: {run} is a run's folder; its model is {run / 'model'}\n"
    assert model_folder(str(run / "model")) == run / "model"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["state.json"], "that is a checkpoint, `caad-ds export "),
        (["checkpoints/latest"], "that run is not finished, `caad-ds export "),
        (["adapter_config.json"], "those are adapters alone, `caad-ds export` without --keep-adapters"),
        (["notes.txt"], "no model there (config.json is missing); give the folder of a model"),
        ([], "no such folder; give the folder of a model, or a hub id"),
    ],
)
def test_what_is_no_model_is_named(tmp_path, capsys, files, said):
    folder = make(tmp_path / "here", *files)
    assert cli.main(["evaluate", "--model", str(folder), "--benchmark", str(tmp_path), "--out", "a"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"caad-ds: error: {folder}: ") and said in line


def test_a_result_that_could_not_be_written_is_refused_before_the_work(tmp_path, capsys):
    folder = make(tmp_path / "model", "config.json")
    arguments = ["--model", folder, "--benchmark", tmp_path, "--instructions", tmp_path, "--out", tmp_path]
    assert cli.main(["check-teacher", *map(str, arguments)]) == 2
    assert capsys.readouterr().err == (
        f"caad-ds: error: {tmp_path}: it is a folder; name a file in it, such as {tmp_path / 'result.json'}\n"
    )


def test_several_ranks_refuse_a_path_where_they_can_agree(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for check in (existing, model_folder):
        assert check(str(tmp_path / "absent")) == tmp_path / "absent"


def test_a_hub_id_is_distinguished_from_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(make(tmp_path, "runs/caad/config.json"))
    assert is_hub_id("organisation/name") and model_folder("organisation/name") == Path("organisation/name")
    for path in ("runs/caad", "runs/absent", "name", "./a/b", "/a", "~/a", "a/b/c", "organisation/"):
        assert not is_hub_id(path), path


@pytest.mark.parametrize("name", ["openai/whisper-tiny", "gpt2"])
def test_a_hub_id_is_not_looked_up(name):
    check_hub_or_folder(name, "causal LM")


@pytest.mark.parametrize("name", ["./absent", "../absent", "/absent/here", "runs/absent/model"])
def test_what_can_only_be_a_path_must_be_there(name):
    with pytest.raises(UserError, match="no such folder, expected a causal LM"):
        check_hub_or_folder(name, "causal LM")
