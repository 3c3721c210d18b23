"""An MLflow store: opened with short timeouts, SQLite files made atomically, runs found or created in it."""

import logging
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from caad_ds.tracking.origin import EXPORTED, MODEL, Data
from caad_ds.tracking.secrets import reason
from caad_ds.tracking.target import Target, sqlite_path

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

logger = logging.getLogger(__name__)

# MLflow's limits for one request
BATCH_METRICS, BATCH_PARAMS = 1000, 100
MOST_EXPERIMENTS = 10_000


def connect(uri: str) -> "MlflowClient":
    """Return an MLflow client with short timeouts, without telemetry and needless messages."""
    # MLflow reads these when it is imported or used; a user's values take precedence.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    from mlflow import MlflowClient

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # tables made on the first use of SQLite
    logging.getLogger("urllib3.connectionpool").addFilter(_not_mlflow_retry)
    if (path := sqlite_path(uri)) and not path.exists():
        make_store(path)
    return MlflowClient(uri)


def make_store(path: Path) -> None:
    """Make a SQLite store atomically: one with incomplete tables cannot be used."""
    from mlflow import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        partial = Path(folder) / path.name
        MlflowClient(f"sqlite:///{partial}").search_experiments(max_results=1)
        with suppress(FileExistsError):  # another run was first
            os.link(partial, path)


def existing_run(client: "MlflowClient", run_id: str | None) -> "Run | None":
    """Return the run to resume, RUNNING; None if there is none or the store no longer has it."""
    from mlflow.exceptions import MlflowException

    if run_id is None:
        return None
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
    else:
        if run.info.lifecycle_stage == "active":
            client.update_run(run_id, status="RUNNING")
            return run
    logger.warning("the MLflow store no longer has run %s: a new one is made", run_id)
    return None


def training_run(client: "MlflowClient", model_sha256: str, experiment: str | None = None) -> "Run | None":
    """Return the newest run that trained a model, or whose checkpoint was exported as it; None if there is none.

    `experiment` names the only one that is looked through.
    """
    known = client.search_experiments(max_results=MOST_EXPERIMENTS)
    ids = [each.experiment_id for each in known if experiment in (None, each.name)]
    for query in (f"tags.{MODEL} = '{model_sha256}'", f"tags.`{EXPORTED}{model_sha256}` LIKE '%'"):
        runs = client.search_runs(ids, query, max_results=1, order_by=["attributes.start_time DESC"]) if ids else []
        if runs:
            return runs[0]
    return None


def holds(client: "MlflowClient", experiment_id: str, what: str) -> bool:
    """Return whether an experiment has runs that match a filter."""
    return bool(client.search_runs([experiment_id], what, max_results=1))


def newest_experiment(client: "MlflowClient") -> "Experiment | None":
    """Return the experiment of the newest run; None without runs."""
    ids = [each.experiment_id for each in client.search_experiments(max_results=MOST_EXPERIMENTS)]
    newest = client.search_runs(ids, max_results=1, order_by=["attributes.start_time DESC"])
    return client.get_experiment(newest[0].info.experiment_id) if newest else None


def experiment_id(client: "MlflowClient", target: Target) -> str:
    """Return the id of the target's experiment, created if missing."""
    experiment = client.get_experiment_by_name(target.experiment)
    if experiment:
        return experiment.experiment_id
    return client.create_experiment(target.experiment, artifact_location(target.uri))


def log_params(client: "MlflowClient", run: "Run", params: Mapping[str, str]) -> None:
    """Send the parameters that the run lacks; MLflow keeps the first value of a changed one."""
    from mlflow.entities import Param

    logged = run.data.params
    missing = [Param(key, value) for key, value in params.items() if key not in logged]
    for first in range(0, len(missing), BATCH_PARAMS):
        client.log_batch(run.info.run_id, params=missing[first : first + BATCH_PARAMS])
    changed = [key for key, value in params.items() if logged.get(key, value) != value]
    if changed:
        logger.warning("MLflow keeps the run's first value of changed parameters: %s", ", ".join(changed))


def log_tags(client: "MlflowClient", run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags; the newest value counts."""
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def log_inputs(client: "MlflowClient", run: "Run", data: Iterable[Data]) -> None:
    """Send the data sets that a run reads; the store keeps one of each name and digest."""
    inputs = [each.as_input() for each in data]
    try:
        if inputs:
            client.log_inputs(run.info.run_id, inputs)
    except Exception as error:  # an older server has no inputs, but accepts the rest
        logger.warning("MLflow did not take the names of the data sets: %s", reason(error))


def logged_steps(client: "MlflowClient", run: "Run") -> dict[str, set[int]]:
    """Return the steps that the run has, by metric."""
    return {key: {p.step for p in client.get_metric_history(run.info.run_id, key)} for key in run.data.metrics}


def artifact_location(uri: str) -> str | None:
    """Return the folder beside a SQLite file, which runs from different folders share; None: the server's."""
    path = sqlite_path(uri)
    return (path.parent / "mlartifacts").as_uri() if path else None


def _not_mlflow_retry(record: logging.LogRecord) -> bool:
    return "/mlflow/" not in record.getMessage()
