"""Where runs are logged, by whose word, and the address of their page."""

import pytest

from caad_ds.tracking import Target
from caad_ds.tracking.target import curves
from caad_ds.utils.errors import UserError


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns", "htp://user:hunter2@host", ""])
def test_a_uri_that_is_no_store_is_refused(uri, monkeypatch):
    with pytest.raises(UserError, match=r"tracking\.uri .* is no MLflow store: give sqlite") as raised:
        Target.of(uri, "exp")
    assert "hunter2" not in str(raised.value)
    if uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(UserError, match=r"MLFLOW_TRACKING_URI .* is no MLflow store") as raised:
            Target.of(None, None)
        assert "hunter2" not in str(raised.value)


def test_what_the_user_names_is_before_mlflows_variables_and_those_before_the_default(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    assert str(Target.of(None, None)) == "sqlite:///mlflow.db (default), experiment caad-ds (default)"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:hunter2@host:5000")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "speech")
    message = "http://[hidden]@host:5000 (MLFLOW_TRACKING_URI), experiment speech (MLFLOW_EXPERIMENT_NAME)"
    assert str(Target.of(None, None)) == message
    mixed = Target.of("sqlite:///own.db", None)
    assert (mixed.uri, mixed.uri_from, mixed.experiment) == ("sqlite:///own.db", "tracking.uri", "speech")
    named = Target.of(None, "own")
    assert (named.experiment, named.experiment_from, named.uri_from) == (
        "own", "tracking.experiment", "MLFLOW_TRACKING_URI",
    )  # fmt: skip


def test_an_experiment_id_that_is_not_read_is_reported(monkeypatch):
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "7")
    assert "MLFLOW_EXPERIMENT_ID not" in str(Target.of(None, None))
    assert "MLFLOW_EXPERIMENT_ID" not in str(Target.of(None, "own"))


def test_the_page_on_a_server_has_no_credentials():
    assert curves(Target.of("http://ann:hunter2@host:5000/mlflow/", "exp"), "3") == (
        "http://host:5000/mlflow/#/experiments/3/runs?compareRunsMode=CHART&workflowType=machine_learning"
        "&searchFilter=tags.kind%20%3D%20%27training%27"
    )
