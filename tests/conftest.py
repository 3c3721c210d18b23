"""What holds for every test: one thread, no telemetry, no model hub, the CPU where there is no GPU."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # no test depends on the machine's speed
settings.load_profile("untimed")

HAS_GPU = torch.cuda.is_available()
os.environ.setdefault("DS_ACCELERATOR", "cpu")  # training is tested on two ranks, a machine may have one GPU
if not HAS_GPU:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is first imported, by whichever library


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, what needs a GPU that is not there."""
    for item in items:
        if item.get_closest_marker("gpu") and not HAS_GPU:
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU"))
