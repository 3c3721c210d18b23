"""`--mlflow` of four commands: with real SQLite stores, and with servers that are down or do not answer."""

import json
import socket
import time

import pytest
from mlflow import MlflowClient

from caad_ds import cli
from caad_ds.evaluation.commands.compare import FILES
from caad_ds.evaluation.tables_and_plots import mlflow_log
from caad_ds.models.model_hashes import model_hash

EXPERIMENT = "caad-ds"


@pytest.fixture
def uri(mlflow_uri):
    return mlflow_uri


@pytest.fixture
def evaluate(model_folder, conflicts, tmp_path):
    def evaluate(*argv):
        arguments = ["--model", model_folder, "--benchmark", conflicts, "--out", tmp_path / "run", "--device", "cpu"]
        return cli.main(
            ["evaluate", *map(str, arguments), "--name", "greedy", "--max-new-tokens", "4", "--batch-size", "8", *argv]
        )

    return evaluate


def runs_of(uri, experiment=EXPERIMENT):
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    return client, client.search_runs([found.experiment_id]) if found else []


def content(client, run, name):
    return json.loads(open(client.download_artifacts(run.info.run_id, name)).read())


def test_an_evaluation_is_in_the_store_once(evaluate, uri, tmp_path, capsys):
    assert evaluate("--mlflow", uri) == 0
    client, (run,) = runs_of(uri)
    assert (run.info.run_name, run.info.status) == ("greedy: evaluation", "FINISHED")
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert run.data.params == {key: str(value) for key, value in scores["setup"].items()}
    table = dict(content(client, run, "metrics.json")["data"])
    for group in ("all", "gender", "noise"):
        for metric in ("accuracy_neutral", "tir_all_irrelevant"):
            found = scores["groups"][group][metric]
            shown = table[f"{group}/{metric}"], table[f"{group}/{metric}_low"]
            assert shown == pytest.approx((found["value"], found["low"]))  # MLflow's tables have ten digits
    strict = scores["groups"]["all"]["strict"]["accuracy_neutral"]["value"]
    assert table["all/strict/accuracy_neutral"] == pytest.approx(strict)
    assert 20 <= len(run.data.metrics) <= 40 < len(table)
    assert run.data.metrics["all/shift"] == scores["groups"]["all"]["shift"]["value"]
    assert run.data.metrics == pytest.approx({name: table[name] for name in run.data.metrics})
    chosen = {"all/accuracy_adversarial_low", "all/shift", "all/mrs", "gender/accuracy_adversarial", "rejected"}
    assert chosen <= run.data.metrics.keys()
    assert run.data.metrics["speed/parameters/total"] == scores["speed"]["parameters"]["total"]
    [timed] = scores["speed"]["runs"]
    assert run.data.metrics["speed/batch_8/tokens_per_second"] == timed["tokens_per_second"]["median"]
    assert (run.data.metrics["all/items"], run.data.metrics["rejected"]) == (7, 0)
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files == {"scores.json", "predictions.jsonl", "table_shown.json", "metrics.json"}
    assert content(client, run, "scores.json") == scores
    [data] = run.inputs.dataset_inputs
    assert data.dataset.digest == scores["setup"]["benchmark_sha256"][:36] and data.tags[0].value == "evaluation"
    assert run.data.tags["kind"] == "evaluation" and run.data.tags["device"].endswith("CPU")
    table = content(client, run, "table_shown.json")
    assert table["columns"][:3] == ["subset", "items", "neutral"] and len(table["data"]) == 5
    assert run.info.run_id in capsys.readouterr().err
    assert evaluate("--mlflow", uri) == 0
    assert "already there" in capsys.readouterr().err and len(runs_of(uri)[1]) == 1
    client.delete_run(run.info.run_id)
    assert evaluate("--mlflow", uri) == 0
    assert [again.info.run_id != run.info.run_id for again in runs_of(uri)[1]] == [True]


def test_a_comparison_is_in_the_store_with_its_pictures(evaluate, uri, tmp_path):
    evaluate()
    assert cli.main(["compare", str(tmp_path / "run"), "--title", "T", "--experiment", "mine", "--mlflow", uri]) == 0
    client, (run,) = runs_of(uri, "mine")
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files == {*FILES, "table_shown.json"}
    assert content(client, run, "table_shown.json")["columns"][:2] == ["system", "runs"]
    assert run.data.params == {"title": "T", "baseline": "greedy", "systems": "greedy"}
    found = content(client, run, "table.json")["systems"]["greedy"]["all"]
    for metric in ("accuracy_neutral", "accuracy_adversarial", "shift", "mrs"):
        assert run.data.metrics[f"greedy/{metric}"] == found[metric]["value"]
    assert not (tmp_path / "run" / "mlflow.json").exists()


@pytest.mark.parametrize("saved", [True, False])
def test_speeds_are_in_the_store(model_folder, conflicts, uri, tmp_path, capsys, saved):
    argv = ["--models", f"student={model_folder}", "--benchmark", conflicts, "--contrast-alpha", 1, "--device", "cpu"]
    argv += ["--batch-size", 2, "--tokens", 2, "--rounds", 1, *(["--out", tmp_path / "out"] if saved else [])]
    assert cli.main(["speed", *map(str, argv), "--mlflow", uri]) == 0
    client, (run,) = runs_of(uri)
    assert (run.info.run_name, run.info.status) == ("Size and speed", "FINISHED")
    assert run.data.params["systems"] == "student, student + CD 1 zero_mel"
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {
        "speed.md", "speed.json", "table_shown.json",
    }  # fmt: skip
    measured = content(client, run, "speed.json")["systems"]
    for name, key in {"student": "student", "student + CD 1 zero_mel": "student _ CD 1 zero_mel"}.items():
        speed, metrics = measured[name], run.data.metrics
        assert metrics[f"{key}/parameters/total"] == speed["parameters"]["total"]
        assert metrics[f"{key}/memory_mib/weights"] == speed["memory_mib"]["weights"]
        for timed in speed["runs"]:
            for figure in ("tokens_per_second", "first_token_ms", "encoder_ms"):
                path = f"{key}/batch_{timed['batch_size']}/{figure}"
                found = [metrics[path + end] for end in ("", "_low", "_high")]
                assert found == [timed[figure][bound] for bound in ("median", "low", "high")]
    assert content(client, run, "table_shown.json")["columns"][0] == "system"
    assert saved == (tmp_path / "out").exists() == ("saved" in capsys.readouterr().out)


def test_token_pictures_are_in_the_store_once_and_further_items_are_news(
    model_folder, conflicts, uri, tmp_path, capsys
):
    def explain(*items):
        argv = ["--model", model_folder, "--benchmark", conflicts, "--out", tmp_path / "out", "--max-new-tokens", 1]
        return cli.main(["explain", *map(str, argv), "--device", "cpu", "--items", *items, "--mlflow", uri])

    for _ in range(2):
        assert explain("gender/0:neutral", "noise/1:adversarial") == 0
    assert "already there" in capsys.readouterr().err
    client, (run,) = runs_of(uri)
    stems = ("gender_0.neutral", "noise_1.adversarial")
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files == {"table_shown.json", *(f"{stem}.{end}" for stem in stems for end in ("json", "png"))}
    assert content(client, run, "gender_0.neutral.json")["id"] == "gender/0"
    assert (run.data.params["negative"], run.data.params["model"]) == ("zero_mel", str(model_folder))
    rows = content(client, run, "table_shown.json")["data"]
    assert [row[:3] for row in rows] == [["gender/0", "neutral", "male"], ["noise/1", "adversarial", "quiet"]]
    assert explain("gender/0:neutral", "noise/0:adversarial") == 0
    assert len(runs_of(uri)[1]) == 2


def test_numbers_at_any_depth_are_metrics():
    share = {"value": 0.5, "low": 0.25, "high": 1.0, "deviation": None}
    scores = {"items": 3, "name": "x", "seen": True, "all": {"accuracy": {**share, "items": 2, "strict": share}}}
    scores |= {"shift": dict.fromkeys(share), "missing": ["y"]}
    assert dict(mlflow_log.flat_metrics(scores)) == {
        "items": 3, "all/accuracy": 0.5, "all/accuracy_low": 0.25, "all/accuracy_high": 1, "all/accuracy/items": 2,
        "all/accuracy/strict": 0.5, "all/accuracy/strict_low": 0.25, "all/accuracy/strict_high": 1,
    }  # fmt: skip


def test_of_very_many_numbers_no_more_than_forty_are_metrics():
    found = {f"dimensions/dimension{number}": 0.5 for number in range(100)}
    assert len(mlflow_log.chosen({"overall": 0.5, **found})) == 40 and "overall" in mlflow_log.chosen(
        found | {"overall": 0.5}
    )


def test_without_mlflow_no_store_is_made(evaluate, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert evaluate() == 0
    assert not (tmp_path / "mlflow.db").exists() and not (tmp_path / "run" / "mlflow.json").exists()


def test_a_dead_server_loses_no_scores_and_costs_one_line(evaluate, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    began = time.monotonic()
    assert evaluate("--mlflow", f"http://ann:hunter2@127.0.0.1:{port}") == 0
    assert time.monotonic() - began < 60
    lines = [line for line in capsys.readouterr().err.splitlines() if "did not take greedy" in line]
    assert len(lines) == 1 and "refused" in lines[0] and "hunter2" not in lines[0]
    assert json.loads((tmp_path / "run" / "scores.json").read_text())["groups"]["all"]["items"] == 7
    assert not (tmp_path / "run" / "mlflow.json").exists()


def test_a_store_that_hangs_is_not_waited_for(evaluate, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(mlflow_log, "PATIENCE", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        assert evaluate("--mlflow", f"http://127.0.0.1:{silent.getsockname()[1]}") == 0
        assert "did not take greedy: evaluation within 0.5 s" in capsys.readouterr().err
    assert (tmp_path / "run" / "scores.json").is_file()


def test_what_is_no_store_is_refused_before_the_work(evaluate, model_folder, tmp_path, capsys):
    assert evaluate("--mlflow", "mlruns") == 2
    assert "--mlflow 'mlruns' is no MLflow store" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert cli.main(["compare", "--mlflow", str(tmp_path / "run"), str(tmp_path)]) == 2
    assert "is no MLflow store" in capsys.readouterr().err
    for command in (
        ["speed", "--models", f"a={model_folder}"],
        ["explain", "--model", str(model_folder), "--items", "i", "--out", "o"],
    ):
        assert cli.main([*command, "--benchmark", str(tmp_path), "--mlflow", "mlruns"]) == 2
        assert "--mlflow 'mlruns' is no MLflow store" in capsys.readouterr().err
    assert evaluate("--experiment", "mine") == 2
    assert "--experiment mine: belongs to an MLflow store" in capsys.readouterr().err


def trained_as(uri, sha256, experiment, name="student", key="model_sha256"):
    """A finished run of that experiment, tagged as training or export does; its id."""
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    where = found.experiment_id if found else client.create_experiment(experiment)
    value = sha256 if key == "model_sha256" else "step-00000004"
    run = client.create_run(where, run_name=name, tags={key: value})
    client.set_terminated(run.info.run_id)
    return run.info.run_id


def test_an_evaluation_is_a_child_of_the_newest_run_that_made_its_model(
    evaluate, model_folder, uri, monkeypatch, capsys
):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "elsewhere")
    sha256 = model_hash(model_folder)
    trained_as(uri, sha256, "distilling", "older")
    trained_as(uri, "0" * 64, "distilling", "another model")
    parent = trained_as(uri, sha256, "distilling")
    assert evaluate("--mlflow", uri) == 0
    client, runs = runs_of(uri, "distilling")
    [child] = [run for run in runs if run.data.tags.get("kind") == "evaluation"]
    assert child.data.tags["mlflow.parentRunId"] == parent
    assert f"run {child.info.run_id}, a child of student, run {parent}" in capsys.readouterr().err
    assert client.get_experiment_by_name("elsewhere") is None


def test_an_evaluation_of_an_export_is_a_child_of_the_run_of_its_checkpoint(evaluate, model_folder, uri):
    parent = trained_as(uri, model_hash(model_folder), "distilling", key=f"exported.{model_hash(model_folder)}")
    assert evaluate("--mlflow", uri) == 0
    [child] = [run for run in runs_of(uri, "distilling")[1] if run.info.run_id != parent]
    assert child.data.tags["mlflow.parentRunId"] == parent


def test_a_named_experiment_stands(evaluate, model_folder, uri):
    trained_as(uri, model_hash(model_folder), "distilling")
    assert evaluate("--mlflow", uri, "--experiment", "mine") == 0
    [run] = runs_of(uri, "mine")[1]
    assert "mlflow.parentRunId" not in run.data.tags and len(runs_of(uri, "distilling")[1]) == 1


def test_mlflow_without_a_uri_reads_the_variables(evaluate, uri, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "of the variable")
    assert evaluate("--mlflow") == 0
    assert len(runs_of(uri, "of the variable")[1]) == 1
    stderr = capsys.readouterr().err
    assert "(MLFLOW_TRACKING_URI)" in stderr and "experiment of the variable (MLFLOW_EXPERIMENT_NAME)" in stderr
