"""MLflow on rank 0: a run that resumes without duplicate points and never holds up or ends training."""

import itertools
import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from caad_ds.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

SEND_EVERY = 1.0  # seconds
RETRY_EVERY = 30.0  # seconds, while the store does not answer
MAX_HELD = 200_000  # points kept for a store that does not answer
# MLflow's limits for one request and for a parameter
BATCH_METRICS, BATCH_PARAMS = 1000, 100
MAX_KEY, MAX_VALUE = 250, 6000

SCHEMES = ("sqlite", "http", "https", "postgresql", "mysql", "mssql", "databricks")
SECRET_KEY = re.compile(r"secret|passw|credential|api_?key|(^|[._-])(auth|token)($|[._-])", re.IGNORECASE)
SECRET_IN_URI = re.compile(
    r"(?<=://)[^/@\s]+(?=@)|(?<=[?&])[^=&\s]*(?:token|secret|key|sig|passw)[^=&\s]*=[^&\s]+", re.I
)
HIDDEN = "[hidden]"


@dataclass(frozen=True)
class OpenRun:
    """A run in its store, and the steps it held for each metric when it was opened."""

    client: "MlflowClient"
    id: str
    logged: dict[str, set[int]]


class Tracker:
    """One MLflow run; does nothing unless `enabled`, which is for rank 0 alone.

    `uri` is an MLflow store or server, `params` a flat mapping; secrets in them are hidden. With `run_id` that run goes
    on: its status is RUNNING again and points that it already holds are not sent twice. Points go out from a
    thread, which keeps them while the store does not answer; that is said once, and `finish` counts what never
    arrived. `run_id` is None until the store has answered. A URI that is no MLflow store raises UserError, on every
    rank.
    """

    def __init__(
        self,
        uri: str,
        experiment: str,
        run_name: str,
        params: Mapping[str, Any],
        enabled: bool,
        run_id: str | None = None,
    ) -> None:
        check_uri(uri)
        self.run_id = run_id
        self._enabled = enabled
        if not enabled:
            return
        self._uri, self._experiment, self._run_name = uri, experiment, run_name
        self._params = printable(params)
        self._held: deque[tuple[str, float, int, int]] = deque()  # key, value, time in ms, step
        self._refused = 0
        self._lock, self._opening, self._sending = threading.Lock(), threading.Lock(), threading.Lock()
        self._done = threading.Event()
        self._warned = False
        self._run: OpenRun | None = None
        self._reached = self._send()
        self._thread = threading.Thread(target=self._send_until_done, name="tracking", daemon=True)
        self._thread.start()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Note the values of one step; returns at once."""
        if not self._enabled:
            return
        now = int(time.time() * 1000)
        with self._lock:
            if len(self._held) + len(metrics) > MAX_HELD:
                self._refused += len(metrics)
                return
            self._held.extend((legal_key(key), float(value), now, step) for key, value in metrics.items())

    def flush(self) -> None:
        """Send what is held, unless the store has not been answering; what a checkpoint covers must be in the store.

        A killed run goes on after its checkpoint and never logs the steps before it again.
        """
        if self._enabled and self._reached:
            self._reached = self._send()

    def artifact(self, path: str | Path) -> None:
        """Store a file with the run; a store that does not answer is said, not raised, nor waited for again."""
        if not self._enabled:
            return
        if not self._reached:
            logger.warning("MLflow did not take %s: its store has not answered yet", path)
            return
        try:
            run = self._open()
            run.client.log_artifact(run.id, str(path))
        except Exception as error:
            logger.warning("MLflow did not take %s: %s", path, reason(error))

    def finish(self, status: str = "FINISHED") -> int:
        """Send what is held, set the status (FINISHED, FAILED or KILLED) and return how many points were lost."""
        if not self._enabled or self._done.is_set():
            return 0
        self._done.set()
        self._thread.join()
        if self._send():
            try:
                run = self._open()
                run.client.set_terminated(run.id, status)
            except Exception as error:
                self._warn(error)
        lost = len(self._held) + self._refused
        if lost:
            logger.warning("MLflow at %s: %d points were lost", hide_secrets(self._uri), lost)
        return lost

    def _send_until_done(self) -> None:
        while not self._done.wait(SEND_EVERY if self._reached else RETRY_EVERY):
            self._reached = self._send()

    def _send(self) -> bool:
        """Send the held points in order; whether the store took them all."""
        with self._sending:
            try:
                run = self._open()
                from mlflow.entities import Metric

                while batch := self._oldest():
                    missing = [Metric(*point) for point in batch if point[3] not in run.logged.get(point[0], ())]
                    run.client.log_batch(run.id, metrics=missing)
                    with self._lock:
                        for _ in batch:
                            self._held.popleft()
            except Exception as error:  # whatever fails in a store, training goes on
                self._warn(error)
                return False
            return True

    def _oldest(self) -> list[tuple[str, float, int, int]]:
        with self._lock:
            return list(itertools.islice(self._held, BATCH_METRICS))

    def _open(self) -> OpenRun:
        with self._opening:
            if self._run is None:
                client = connect(self._uri)
                run = existing_run(client, self.run_id) or new_run(client, self._uri, self._experiment, self._run_name)
                self.run_id = run.info.run_id
                log_params(client, run, self._params)
                self._run = OpenRun(client, run.info.run_id, logged_steps(client, run))
            return self._run

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            where = hide_secrets(self._uri)
            logger.warning("MLflow at %s does not answer, training goes on without it: %s", where, reason(error))
            if "_alembic_tmp" in str(error):
                logger.warning("MLflow at %s: its tables are half made; move the file away and run again", where)
        self._warned = True


def check_uri(uri: str, name: str = "tracking.uri") -> None:
    """Raise UserError for what MLflow cannot use as a store, folders included."""
    if urlsplit(uri).scheme.split("+")[0] not in SCHEMES:
        hint = "sqlite:///mlflow.db or a server such as http://host:5000"
        raise UserError(f"{name} {hide_secrets(uri)!r} is no MLflow store: give {hint}")


def connect(uri: str) -> "MlflowClient":
    """An MLflow client that gives up in seconds, sends no telemetry and does not chat."""
    # Read by MLflow as it is imported or used; a user's own values stay.
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
    """Make a SQLite store, whole or not at all: one whose tables are half made can never be used again."""
    from mlflow import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        partial = Path(folder) / path.name
        MlflowClient(f"sqlite:///{partial}").search_experiments(max_results=1)
        with suppress(FileExistsError):  # another run was first
            os.link(partial, path)


def existing_run(client: "MlflowClient", run_id: str | None) -> "Run | None":
    """The run to go on with, RUNNING; None if there is none or the store no longer has it."""
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


def new_run(client: "MlflowClient", uri: str, experiment: str, run_name: str) -> "Run":
    """A run in the experiment, which is made if need be."""
    found = client.get_experiment_by_name(experiment)
    experiment_id = found.experiment_id if found else client.create_experiment(experiment, artifact_location(uri))
    return client.create_run(experiment_id, run_name=run_name)


def log_params(client: "MlflowClient", run: "Run", params: Mapping[str, str]) -> None:
    """Send the parameters that the run lacks; MLflow keeps the first value of one that has changed."""
    from mlflow.entities import Param

    logged = run.data.params
    missing = [Param(key, value) for key, value in params.items() if key not in logged]
    for first in range(0, len(missing), BATCH_PARAMS):
        client.log_batch(run.info.run_id, params=missing[first : first + BATCH_PARAMS])
    changed = [key for key, value in params.items() if logged.get(key, value) != value]
    if changed:
        logger.warning("MLflow keeps the run's first value of changed parameters: %s", ", ".join(changed))


def logged_steps(client: "MlflowClient", run: "Run") -> dict[str, set[int]]:
    """The steps that the run holds, by metric."""
    return {key: {p.step for p in client.get_metric_history(run.info.run_id, key)} for key in run.data.metrics}


def sqlite_path(uri: str) -> Path | None:
    """The file behind a SQLite URI; None for other stores."""
    scheme, _, path = uri.partition(":///")
    return Path(path).absolute() if scheme.startswith("sqlite") and path else None


def artifact_location(uri: str) -> str | None:
    """Beside a SQLite file, so that runs from different folders share it; None leaves it to the server."""
    path = sqlite_path(uri)
    return (path.parent / "mlartifacts").as_uri() if path else None


def printable(params: Mapping[str, Any]) -> dict[str, str]:
    """Parameters as MLflow takes them: legal keys, values within its limits, secrets hidden."""
    return {legal_key(key): _value(key, value) for key, value in params.items()}


def hide_secrets(text: str) -> str:
    """Text without the credentials of the URIs in it."""
    return SECRET_IN_URI.sub(HIDDEN, text)


def reason(error: Exception) -> str:
    """An error's innermost cause in one line; MLflow and urllib3 wrap it in their own words."""
    text = " ".join(str(error).split()).rpartition("(Caused by ")[2]
    return hide_secrets(text)[:200] or type(error).__name__


def legal_key(key: str) -> str:
    """A key with what MLflow does not take replaced."""
    return re.sub(r"[^\w./ :-]", "_", key)[:MAX_KEY]


def _value(key: str, value: Any) -> str:
    if isinstance(value, str) and SECRET_KEY.search(key):
        return HIDDEN
    text = hide_secrets(str(value))
    return text if len(text) <= MAX_VALUE else text[: MAX_VALUE - 3] + "..."


def _not_mlflow_retry(record: logging.LogRecord) -> bool:
    return "/mlflow/" not in record.getMessage()
