"""System metrics of this machine, under the names that MLflow's page expects."""

import logging
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor

logger = logging.getLogger(__name__)

INTERVAL = 10.0  # seconds; MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL overrides it
PREFIX = "system/"  # expected by MLflow's page


class Machine:
    """Use of CPU, memory, disk and network of this machine, and of its GPUs, read at intervals by MLflow's monitors.

    It reads nothing if psutil is missing, which is logged once, or if MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING is false.
    `step` is the number of the first reading.
    """

    def __init__(self, step: int) -> None:
        self.step = step
        self._monitors: list[BaseMetricsMonitor] = []
        self._interval, self._due = INTERVAL, 0.0
        try:
            self._begin()
        except Exception as error:  # a library is missing or broken: training continues
            self._give_up(error)

    def read(self) -> dict[str, float]:
        """Return current metrics by name; none before the interval is over."""
        if not self._monitors or time.monotonic() < self._due:
            return {}
        try:
            metrics = self._collect()
        except Exception as error:
            self._give_up(error)
            return {}
        self._due = time.monotonic() + self._interval
        self.step += 1
        return {f"{PREFIX}{name}": value for name, value in metrics.items()}

    def _begin(self) -> None:
        from mlflow.environment_variables import (
            MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING,
            MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL,
        )

        if MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.is_set() and not MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get():
            return
        self._interval = MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get() or INTERVAL
        self._monitors = _monitors()
        self._collect()  # the CPU's share is measured since the previous call
        self._due = time.monotonic() + self._interval

    def _collect(self) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            metrics |= monitor.aggregate_metrics()
            monitor.clear_metrics()
        return metrics

    def _give_up(self, error: Exception) -> None:
        logger.warning("no system metrics in MLflow: %s", error)
        self._monitors = []


def _monitors() -> "list[BaseMetricsMonitor]":
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    monitors: list[BaseMetricsMonitor] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    if _has_gpu():
        try:
            monitors.append(GPUMonitor())
        except Exception as error:  # pynvml is missing, or the driver refuses
            logger.warning("no GPU among MLflow's system metrics: %s", " ".join(str(error).split()))
    return monitors


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
