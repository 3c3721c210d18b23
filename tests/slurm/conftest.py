"""One test Slurm for the whole session."""

import shutil
import tempfile
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, missing


@pytest.fixture(scope="session")
def cluster():
    """Two nodes with two cores and two pretended GPUs each; skips where Slurm cannot be started."""
    if reason := missing():
        pytest.skip(reason)
    # A short path: munge's socket name is limited to 107 bytes.
    base = Path(tempfile.mkdtemp(prefix="caad-slurm-"))
    one = Cluster(base)
    try:
        one.start()
        yield one
    finally:
        one.stop()
        shutil.rmtree(base, ignore_errors=True)
