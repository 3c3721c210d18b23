"""What holds for every test: one thread, no telemetry, no model hub, the CPU where there is no GPU."""

import gc
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from hypothesis import settings

from tests.root import ROOT

settings.register_profile("untimed", deadline=None)  # no test depends on the machine's speed
settings.load_profile("untimed")

HAS_GPU = torch.cuda.is_available()
HAS_BROWSER = bool(shutil.which("chromium") and shutil.which("chromedriver") and find_spec("selenium"))
os.environ.setdefault("DS_ACCELERATOR", "cpu")  # training is tested on two ranks, a machine may have one GPU
if not HAS_GPU:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is first imported, by whichever library


LONGEST_FIRST = ("training", "slurm", "evaluation", "loss")  # folders whose files take longest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first, to balance the processes; skip tests that need a missing GPU or browser."""
    order = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(item.path.relative_to(ROOT / "tests").parts[0], len(order)))
    for item in items:
        if item.get_closest_marker("gpu") and not HAS_GPU:
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU"))
        if item.get_closest_marker("browser") and not HAS_BROWSER:
            item.add_marker(pytest.mark.skip(reason="chromium, chromedriver or selenium is not installed"))


def pytest_collection_finish() -> None:
    """What was imported by now stays: DeepSpeed's engines collect garbage, and would look at all of it each time."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Libraries complain at exit of objects that were not collected."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def no_width(monkeypatch) -> None:
    """Tables are as wide as they like, also where a shell or pytest's workers set a width."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(scope="session")
def mlflow_tables(tmp_path_factory) -> Path:
    """A SQLite file with MLflow's tables, which take it seconds to make."""
    from mlflow import MlflowClient

    file = tmp_path_factory.mktemp("tables") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def mlflow_uri(mlflow_tables, tmp_path) -> str:
    """A SQLite store without runs."""
    (tmp_path / "store").mkdir()
    shutil.copy(mlflow_tables, tmp_path / "store" / "mlflow.db")
    return f"sqlite:///{tmp_path}/store/mlflow.db"
