"""A run in MLflow on rank 0, which resumes without duplicate points and never delays or stops training."""

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caad_ds.tracking.machine import PREFIX, Machine
from caad_ds.tracking.mlflow_store import (
    BATCH_METRICS,
    connect,
    existing_run,
    experiment_id,
    log_inputs,
    log_params,
    log_tags,
    logged_steps,
)
from caad_ds.tracking.origin import Data
from caad_ds.tracking.secrets import hide_secrets, legal_key, printable, reason
from caad_ds.tracking.target import Target, curves

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

SEND_EVERY = 1.0  # seconds
RETRY_EVERY = 30.0  # seconds, if the store does not answer
MAX_HELD = 200_000  # points buffered if the store does not answer


@dataclass(frozen=True)
class OpenRun:
    """A run in its store, and the steps that each metric had when it was opened."""

    client: "MlflowClient"
    id: str
    experiment_id: str
    logged: dict[str, set[int]]


class Tracker:
    """One MLflow run; does nothing unless `enabled`, which is only for rank 0.

    `params` and `tags` are flat mappings, whose secrets are hidden; `data` is what the run reads. With `run_id` that
    run is resumed: its status is RUNNING again, tags take the new values, and points and inputs that it already has are
    not sent twice. A thread sends points and tags, and buffers them while the store does not answer; that is logged
    once, and `finish` counts lost points. The same thread adds this machine's system metrics. `run_id` is None until
    the store has answered.
    """

    def __init__(
        self,
        target: Target,
        run_name: str,
        params: Mapping[str, Any],
        enabled: bool,
        run_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        data: Sequence[Data] = (),
    ) -> None:
        self.target = target
        self.run_id = run_id
        self._enabled = enabled
        if not enabled:
            return
        self._run_name, self._params, self._data = run_name, printable(params), data
        self._tags = printable(tags or {})  # not sent yet
        self._held: deque[tuple[str, float, int, int]] = deque()  # key, value, time in ms, step
        self._refused = 0
        self._lock, self._opening, self._sending = threading.Lock(), threading.Lock(), threading.Lock()
        self._done = threading.Event()
        self._warned = False
        self._run: OpenRun | None = None
        self._machine: Machine | None = None
        self._reached = self._send()
        self._thread = threading.Thread(target=self._send_until_done, name="tracking", daemon=True)
        self._thread.start()

    def where(self) -> str:
        """Describe where the run is logged, why there, and how to see its curves."""
        if not self._enabled or self._run is None:
            return f"MLflow: {self.target}"
        run = self._run
        return f"MLflow: {self.target}, run {run.id}; curves: {curves(self.target, run.experiment_id)}"

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Queue the values of one step; returns at once."""
        if not self._enabled:
            return
        now = int(time.time() * 1000)
        with self._lock:
            if len(self._held) + len(metrics) > MAX_HELD:
                self._refused += len(metrics)
                return
            self._held.extend((legal_key(key), float(value), now, step) for key, value in metrics.items())

    def tag(self, key: str, value: str) -> None:
        """Queue a tag; returns at once."""
        if self._enabled:
            with self._lock:
                self._tags |= printable({key: value})

    def flush(self) -> None:
        """Send queued points, unless the store does not answer; call it at checkpoints.

        A killed run resumes from its checkpoint and never logs the steps before it again.
        """
        if self._enabled and self._reached:
            self._reached = self._send()

    def artifact(self, path: str | Path) -> None:
        """Store a file, or a folder under its name, with the run.

        A store that does not answer gives a warning, and is not retried.
        """
        if not self._enabled:
            return
        if not self._reached:
            logger.warning("MLflow did not take %s: its store has not answered yet", path)
            return
        try:
            run = self._open()
            if Path(path).is_dir():
                run.client.log_artifacts(run.id, str(path), Path(path).name)
            else:
                run.client.log_artifact(run.id, str(path))
        except Exception as error:
            logger.warning("MLflow did not take %s: %s", path, reason(error))

    def finish(self, status: str = "FINISHED") -> int:
        """Send queued points, set the status (FINISHED, FAILED or KILLED) and return the number of lost points."""
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
            logger.warning("MLflow at %s: %d points were lost", hide_secrets(self.target.uri), lost)
        return lost

    def _send_until_done(self) -> None:
        while not self._done.wait(SEND_EVERY if self._reached else RETRY_EVERY):
            self._read_machine()
            self._reached = self._send()

    def _read_machine(self) -> None:
        """Queue system metrics, after the store's first answer, which has the next step."""
        if self._run is None:
            return
        if self._machine is None:
            taken = (steps for key, steps in self._run.logged.items() if key.startswith(PREFIX))
            self._machine = Machine(1 + max(map(max, taken), default=-1))
        step = self._machine.step
        self.log(self._machine.read(), step)

    def _send(self) -> bool:
        """Send the queued points in order, then the tags; return whether the store took them all."""
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
                self._send_tags(run)
            except Exception as error:  # training continues, whatever fails in a store
                self._warn(error)
                return False
            return True

    def _send_tags(self, run: OpenRun) -> None:
        with self._lock:
            tags = dict(self._tags)
        if tags:
            log_tags(run.client, run.id, tags)
            with self._lock:  # a tag that was set again in the meantime is sent next time
                self._tags = {key: value for key, value in self._tags.items() if tags.get(key) != value}

    def _oldest(self) -> list[tuple[str, float, int, int]]:
        with self._lock:
            return list(itertools.islice(self._held, BATCH_METRICS))

    def _open(self) -> OpenRun:
        with self._opening:
            if self._run is None:
                client = connect(self.target.uri)
                run = existing_run(client, self.run_id)
                if run is None:
                    run = client.create_run(
                        experiment_id(client, self.target), run_name=self._run_name, tags=self._tags
                    )
                self.run_id = run.info.run_id
                log_params(client, run, self._params)
                log_inputs(client, run, self._data)
                self._run = OpenRun(client, run.info.run_id, run.info.experiment_id, logged_steps(client, run))
            return self._run

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            where = hide_secrets(self.target.uri)
            logger.warning("MLflow at %s does not answer, training continues without it: %s", where, reason(error))
            if "_alembic_tmp" in str(error):
                logger.warning("MLflow at %s: its tables are half made; move the file away and run again", where)
        self._warned = True
