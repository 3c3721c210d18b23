"""`caad-ds dashboard`: the printed address, opened in a real browser."""

import os
import re
import shutil
import socket
import subprocess
import sys

import pytest
from mlflow import MlflowClient

from caad_ds import cli
from caad_ds.tracking import Target, Tracker
from tests.chromium import chromium
from tests.root import ROOT

SEEN_WITHIN = 30  # seconds


@pytest.fixture(scope="module")
def store(mlflow_tables, tmp_path_factory):
    """The URI of a store with two training runs, and an evaluation below the first; the ids of the runs."""
    file = tmp_path_factory.mktemp("dashboard") / "mlflow.db"
    shutil.copy(mlflow_tables, file)
    uri, ids, training = f"sqlite:///{file}", {}, {"kind": "training"}
    for factor, name in enumerate(("caad", "std_kd"), 1):
        tracker = Tracker(Target.of(uri, "demo"), name, {"objective.alpha": factor}, enabled=True, tags=training)
        for step in range(1, 6):
            tracker.log({"train/loss": factor / step, "system/cpu_utilization_percentage": 10.0 * step}, step)
        tracker.finish()
        ids[name] = tracker.run_id
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("demo").experiment_id
    child = client.create_run(experiment, run_name="mcr_bench", tags={"mlflow.parentRunId": ids["caad"]})
    client.log_metric(child.info.run_id, "all/shift", 0.25)
    client.set_terminated(child.info.run_id)
    return uri, experiment, ids


@pytest.fixture(scope="module")
def dashboard(store):
    """The address that the command prints once its server answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-u", "-m", "caad_ds", "dashboard", "--mlflow", store[0], "--port", port]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as served:
        lines = []
        for line in served.stdout:
            lines.append(line)
            if line.startswith("curves of"):
                break
        yield lines[-1], port
        served.terminate()  # Ctrl-C's signal is ignored by what a shell runs in the background
        try:
            assert served.wait(30) == 0
        finally:
            served.kill()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(port))) != 0, "the server goes on"


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium."""
    with chromium((1600, 1000)) as driver:
        yield driver


def seen(browser, address: str, *texts: str) -> str:
    """The text of a page once it holds all of these."""
    from selenium.webdriver.support.ui import WebDriverWait

    def text(driver) -> str:
        return driver.find_element("tag name", "body").text

    browser.get("about:blank")  # what differs in its fragment alone is not loaded again
    browser.get(address)
    WebDriverWait(browser, SEEN_WITHIN).until(lambda driver: all(each in text(driver) for each in texts))
    return text(browser)


@pytest.mark.slow
@pytest.mark.browser
def test_the_address_opens_on_the_curves_of_the_runs(dashboard, browser, store):
    line, port = dashboard
    address = re.fullmatch(r"curves of experiment demo: (\S+)\n", line)[1]
    assert address.startswith(f"http://127.0.0.1:{port}/#/experiments/{store[1]}/runs?")
    shown = seen(browser, address, "2 matching runs", "train/loss", "caad (train/loss)", "std_kd (train/loss)")
    assert "all/shift" not in shown, "the bars of evaluations come before the curves"
    assert browser.find_elements("css selector", ".js-plotly-plot"), "no chart is drawn"


@pytest.mark.slow
@pytest.mark.browser
def test_a_run_has_its_evaluation_and_its_system_metrics(dashboard, browser, store):
    _, experiment, ids = store
    run = f"http://127.0.0.1:{dashboard[1]}/#/experiments/{experiment}/runs/{ids['caad']}"
    seen(browser, run, "Child runs", "mcr_bench", "train/loss")
    seen(browser, f"{run}/system-metrics", "system/cpu_utilization_percentage")


def test_the_page_of_a_server_that_does_not_answer_is_one_line(monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        uri = f"http://ann:hunter2@127.0.0.1:{closed.getsockname()[1]}"
        assert cli.main(["dashboard", "--mlflow", uri]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "cannot be read" in line and "hunter2" not in line


def test_an_experiment_without_runs_and_a_port_that_is_taken_are_refused(store, mlflow_uri, capsys):
    assert cli.main(["dashboard", "--mlflow", mlflow_uri]) == 2
    assert "no runs yet; train first" in capsys.readouterr().err
    assert cli.main(["dashboard", "--mlflow", store[0], "--experiment", "other"]) == 2
    assert "no experiment other" in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert cli.main(["dashboard", "--mlflow", store[0], "--port", str(port)]) == 2
    assert f"--port {port} is taken" in capsys.readouterr().err
