"""One process at a time in numba's cache, where librosa's compiled functions are."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def one_process() -> Iterator[None]:
    """Hold a lock of this user and host while librosa is imported and called for the first time.

    Of three processes that did so at once with an empty cache (numba 0.68), one ended in a segmentation fault in a
    compiled function: they write files of the same names.
    """
    path = Path(tempfile.gettempdir()) / f"caad-ds-numba-{os.getuid()}.lock"
    lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
