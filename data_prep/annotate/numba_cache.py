"""A lock on numba's cache, which holds librosa's compiled functions."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def one_process() -> Iterator[None]:
    """Hold a lock, per user and host, while librosa is imported and called for the first time.

    Processes write cache files of the same names: of three that started at once with an empty cache (numba 0.68), one
    crashed with a segmentation fault in a compiled function.
    """
    path = Path(tempfile.gettempdir()) / f"caad-ds-numba-{os.getuid()}.lock"
    lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
