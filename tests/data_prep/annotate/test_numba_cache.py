"""Processes that compile librosa's functions do so one after another."""

import fcntl
import os
import tempfile
from threading import Thread

import pytest

from data_prep.annotate.annotators import pitch, speaking_rate


@pytest.mark.parametrize("annotator", [pytest.param(pitch, marks=pytest.mark.slow), speaking_rate])
def test_an_annotator_is_loaded_while_no_other_process_loads_one(annotator, tmp_path, monkeypatch):
    pytest.importorskip("librosa")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    loaded = []
    with open(tmp_path / f"caad-ds-numba-{os.getuid()}.lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        loading = Thread(target=lambda: loaded.append(annotator.load()))
        loading.start()
        loading.join(0.3)
        assert loading.is_alive() and not loaded
    loading.join()
    assert callable(loaded[0])
