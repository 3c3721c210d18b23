"""MLflow tracking against real SQLite stores, and against stores that do not answer."""

import socket
import sqlite3
import sys
import time

import pytest
from mlflow import MlflowClient

from caad_ds.tracking import Target, Tracker, mlflow_store, run
from caad_ds.tracking.origin import Data


@pytest.fixture
def uri(mlflow_uri):
    return mlflow_uri


def start(uri: str, params: dict | None = None, run_id: str | None = None, **more) -> Tracker:
    return Tracker(Target.of(uri, "exp"), "name", params or {}, enabled=True, run_id=run_id, **more)


def points(uri: str, run_id: str, key: str) -> list[tuple[int, float]]:
    """(step, value) of every logged point, duplicates included."""
    return sorted((m.step, m.value) for m in MlflowClient(uri).get_metric_history(run_id, key))


def read(uri: str, run_id: str):
    return MlflowClient(uri).get_run(run_id)


def test_a_run_is_read_back(uri, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("a: 1\n")
    tracker = start(uri, {"objective.alpha": 1.0, "run.name": "x"})
    for step in range(3):
        tracker.log({"train/kd": 1.0 / (step + 1), "train/ce": float("nan")}, step)
    tracker.artifact(file)
    assert tracker.finish() == 0
    logged = read(uri, tracker.run_id)
    assert (logged.info.status, logged.info.run_name) == ("FINISHED", "name")
    assert logged.data.params == {"objective.alpha": "1.0", "run.name": "x"}
    assert points(uri, tracker.run_id, "train/kd") == [(0, 1.0), (1, 0.5), (2, pytest.approx(1 / 3))]
    assert len(points(uri, tracker.run_id, "train/ce")) == 3
    assert [f.path for f in MlflowClient(uri).list_artifacts(tracker.run_id)] == ["config.yaml"]


def test_points_arrive_while_the_run_goes_on(uri):
    tracker = start(uri)
    tracker.log({"loss": 1.0}, 1)
    deadline = time.monotonic() + 10
    while not points(uri, tracker.run_id, "loss") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert points(uri, tracker.run_id, "loss") == [(1, 1.0)]
    assert read(uri, tracker.run_id).info.status == "RUNNING"
    tracker.finish()


def test_resume_sends_only_the_missing_steps(uri, caplog):
    first = start(uri, {"a": 1, "b": 2})
    for step in range(1, 6):  # the checkpoint was at step 3; steps 4 and 5 are logged already
        first.log({"loss": float(step)}, step)
    first.finish("KILLED")
    second = start(uri, {"a": 1, "b": 3, "c": 4}, first.run_id)
    assert read(uri, first.run_id).info.status == "RUNNING"
    for step in range(4, 8):
        second.log({"loss": float(step), "new": 0.0}, step)
    second.finish()
    assert second.run_id == first.run_id
    assert points(uri, first.run_id, "loss") == [(step, float(step)) for step in range(1, 8)]
    assert [step for step, _ in points(uri, first.run_id, "new")] == [4, 5, 6, 7]
    logged = read(uri, first.run_id)
    assert logged.info.status == "FINISHED"
    assert logged.data.params == {"a": "1", "b": "2", "c": "4"}
    assert [r.getMessage() for r in caplog.records] == ["MLflow keeps the run's first value of changed parameters: b"]


def test_a_run_that_the_store_lost_is_replaced(uri, caplog):
    tracker = start(uri, run_id="0" * 32)
    tracker.finish()
    assert tracker.run_id != "0" * 32
    assert read(uri, tracker.run_id).info.status == "FINISHED"
    assert "no longer has run" in caplog.text


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_finish_sets_the_status_and_an_end(uri, status):
    tracker = start(uri)
    tracker.finish(status)
    tracker.finish("FINISHED")  # the first call decides
    info = read(uri, tracker.run_id).info
    assert info.status == status and info.end_time is not None


def test_a_dead_server_is_said_once_and_costs_seconds(caplog):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        began = time.monotonic()
        tracker = start(f"http://user:hunter2@127.0.0.1:{port}")
        for step in range(3):
            tracker.log({"a": 1.0, "b": 2.0}, step)
        assert tracker.finish() == 6
    assert time.monotonic() - began < 20
    assert tracker.run_id is None
    said = [r.getMessage() for r in caplog.records]  # of any library
    assert len(said) == 2
    assert "does not answer, training continues without it" in said[0] and "refused" in said[0]
    assert said[1].endswith("6 points were lost")
    assert "hunter2" not in caplog.text


def test_a_server_that_accepts_and_stays_silent_costs_seconds(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        tracker = start(f"http://127.0.0.1:{silent.getsockname()[1]}")
        tracker.log({"a": 1.0}, 0)
        assert tracker.finish() == 1
    assert time.monotonic() - began < 10


def test_points_held_during_an_outage_arrive_once(uri, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(run, "RETRY_EVERY", 0.2)
    tracker = start(uri)
    tracker.log({"loss": 0.0}, 0)
    database = tmp_path / "store/mlflow.db"
    with sqlite3.connect(database, timeout=30) as other:
        other.execute("ALTER TABLE metrics RENAME TO away")
        other.commit()
        tracker.log({"loss": 1.0}, 1)
        deadline = time.monotonic() + 15
        while "does not answer" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.1)
        other.execute("ALTER TABLE away RENAME TO metrics")
        other.commit()
    tracker.log({"loss": 2.0}, 2)
    assert tracker.finish() == 0
    assert points(uri, tracker.run_id, "loss") == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert read(uri, tracker.run_id).info.status == "FINISHED"


def test_a_request_that_arrived_but_failed_here_is_not_repeated(uri, monkeypatch):
    log_batch, fails = MlflowClient.log_batch, [True]

    def answer_lost(self, *args, **kwargs):
        log_batch(self, *args, **kwargs)
        if kwargs.get("metrics") and fails:
            fails.pop()
            raise TimeoutError("the answer got lost")

    monkeypatch.setattr(run, "RETRY_EVERY", 0.2)
    monkeypatch.setattr(MlflowClient, "log_batch", answer_lost)
    tracker = start(uri)
    tracker.log({"loss": 1.0}, 1)
    deadline = time.monotonic() + 10
    while fails and time.monotonic() < deadline:
        time.sleep(0.1)
    assert tracker.finish() == 0
    assert points(uri, tracker.run_id, "loss") == [(1, 1.0)]


def test_more_points_than_can_be_held_are_counted(monkeypatch):
    monkeypatch.setattr(run, "MAX_HELD", 2)
    tracker = start("http://127.0.0.1:1")
    for step in range(5):
        tracker.log({"a": 1.0}, step)
    assert tracker.finish() == 5


def test_long_and_secret_parameters(uri):
    params = {f"p.{i}": i for i in range(150)}
    params |= {
        "data.note": "x" * 10_000,
        "k" * 300: 1,
        "bad?key": 1,
        "tracking.uri": "https://user:hunter2@host:5000",
        "hub.token": "hunter2",
        "db_password": "hunter2",
        "data.url": "https://host/x?sig=hunter2&page=3",
        "data.max_answer_tokens": 300,
        "student.tokenizer": "folder",
    }
    tracker = start(uri, params)
    tracker.finish()
    logged = read(uri, tracker.run_id).data.params
    assert len(logged) == len(params)
    assert len(logged["data.note"]) == 6000 and logged["data.note"].endswith("...")
    assert logged["bad_key"] == "1" and "k" * 250 in logged
    assert logged["tracking.uri"] == "https://[hidden]@host:5000"
    assert logged["data.url"] == "https://host/x?[hidden]&page=3"
    assert logged["hub.token"] == logged["db_password"] == "[hidden]"
    assert logged["data.max_answer_tokens"] == "300" and logged["student.tokenizer"] == "folder"
    assert "hunter2" not in " ".join(logged.values())


def test_other_ranks_do_nothing(tmp_path):
    tracker = Tracker(Target.of(f"sqlite:///{tmp_path}/store/mlflow.db", "exp"), "name", {}, enabled=False)
    tracker.log({"a": 1.0}, 0)
    tracker.artifact(tmp_path / "absent")
    assert tracker.finish() == 0 and tracker.run_id is None
    assert not (tmp_path / "store").exists()


def test_a_new_store_is_made_in_silence(tmp_path, capfd):
    tracker = start(f"sqlite:///{tmp_path}/new/folder/mlflow.db")
    tracker.finish()
    assert (tmp_path / "new/folder/mlflow.db").exists()
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_a_store_is_made_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "new" / "mlflow.db"

    class Killed(MlflowClient):
        def search_experiments(self, **kwargs):
            super().search_experiments(**kwargs)
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mlflow.MlflowClient", Killed)
        with pytest.raises(KeyboardInterrupt):
            mlflow_store.connect(f"sqlite:///{file}")
    assert list(file.parent.iterdir()) == []
    mlflow_store.connect(f"sqlite:///{file}")
    assert list(file.parent.iterdir()) == [file]
    assert MlflowClient(f"sqlite:///{file}").search_experiments()


def test_half_made_tables_are_reported_with_what_to_do(uri, caplog):
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as store:
        # As a process leaves them that was killed in MLflow's migration a8c4a736bde6 of a new file.
        store.execute("CREATE TABLE _alembic_tmp_latest_metrics (key TEXT)")
        store.execute("UPDATE alembic_version SET version_num = 'a8c4a736bde6'")
        store.execute("DROP TABLE input_tags")
    tracker = start(uri)
    tracker.log({"train/kd": 1.0}, 0)
    assert tracker.finish() == 1
    assert "its tables are half made; move the file away" in caplog.text


def test_the_line_at_the_start_names_store_run_and_page(uri):
    tracker = start(uri)
    tracker.finish()
    logged = read(uri, tracker.run_id)
    page = f"http://127.0.0.1:5000/#/experiments/{logged.info.experiment_id}/runs?compareRunsMode=CHART"
    line = f"MLflow: {uri} (tracking.uri), experiment exp (tracking.experiment), run {tracker.run_id}; curves: "
    shown = "&workflowType=machine_learning&searchFilter=tags.kind%20%3D%20%27training%27"
    assert tracker.where() == f"{line}`caad-ds dashboard --mlflow {uri}`, then {page}{shown}"


def test_tags_and_inputs_of_a_resumed_run_are_there_once_and_new(uri):
    data = [Data("shards", "/data/shards", "a" * 64, "training")]
    first = start(uri, tags={"host": "a", "mlflow.user": "ann", "hub.token": "hunter2"}, data=data)
    first.tag("model_sha256", "b" * 64)
    first.finish("KILLED")
    data.append(Data("held-out", "https://ann:hunter2@host/x", "c" * 64, "validation"))
    second = start(uri, run_id=first.run_id, tags={"host": "b"}, data=data)
    second.finish()
    logged = read(uri, first.run_id)
    expected = {"host": "b", "mlflow.user": "ann", "hub.token": "[hidden]", "model_sha256": "b" * 64}
    assert expected.items() <= logged.data.tags.items()
    inputs = {each.dataset.name: each for each in logged.inputs.dataset_inputs}
    assert len(logged.inputs.dataset_inputs) == 2 and inputs["shards"].dataset.digest == "a" * 36
    assert [tag.value for tag in inputs["held-out"].tags] == ["validation"]
    assert "hunter2" not in str([vars(each.dataset) for each in logged.inputs.dataset_inputs])


def test_a_tag_noted_while_the_store_is_away_arrives(uri, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "RETRY_EVERY", 0.2)
    tracker = start(uri)
    with sqlite3.connect(tmp_path / "store/mlflow.db", timeout=30) as other:
        other.execute("ALTER TABLE tags RENAME TO away")
        other.commit()
        tracker.tag("model_sha256", "b" * 64)
        tracker.flush()
        other.execute("ALTER TABLE away RENAME TO tags")
        other.commit()
    tracker.finish()
    assert read(uri, tracker.run_id).data.tags["model_sha256"] == "b" * 64


def system_steps(uri, run_id):
    return [step for step, _ in points(uri, run_id, "system/cpu_utilization_percentage")]


def until(condition, seconds=15):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


def test_system_metrics_go_on_where_they_ended(uri, monkeypatch):
    first = start(uri)
    first.log({"system/cpu_utilization_percentage": 1.0}, 500)
    first.finish("KILLED")
    monkeypatch.setattr(run, "SEND_EVERY", 0.1)
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    second = start(uri, run_id=first.run_id)
    assert until(lambda: len(system_steps(uri, first.run_id)) >= 3)
    second.finish()
    steps = system_steps(uri, first.run_id)
    assert steps == list(range(500, 500 + len(steps)))
    logged = read(uri, first.run_id).data.metrics
    assert 0 < logged["system/system_memory_usage_percentage"] < 100 and "system/disk_usage_megabytes" in logged


def test_without_psutil_one_line_says_so(uri, monkeypatch, caplog):
    monkeypatch.setattr(run, "SEND_EVERY", 0.05)
    monkeypatch.setitem(sys.modules, "psutil", None)
    for name in [name for name in sys.modules if name.startswith("mlflow.system_metrics")]:
        monkeypatch.delitem(sys.modules, name)
    tracker = start(uri)
    assert until(lambda: "no system metrics" in caplog.text)
    tracker.log({"loss": 1.0}, 1)
    assert tracker.finish() == 0
    assert caplog.text.count("no system metrics") == 1 and "psutil" in caplog.text
    assert points(uri, tracker.run_id, "loss") == [(1, 1.0)]


def test_system_metrics_are_off_where_mlflows_variable_says_so(uri, monkeypatch, caplog):
    monkeypatch.setattr(run, "SEND_EVERY", 0.05)
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    tracker = start(uri)
    time.sleep(1)
    tracker.finish()
    assert not any(key.startswith("system/") for key in read(uri, tracker.run_id).data.metrics)
    assert not caplog.records
