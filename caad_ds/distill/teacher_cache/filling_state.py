"""Who fills a cache: locks of a single run or of the parts of one command, and marks of trainings."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from caad_ds.utils.array_task import Part
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import is_free, read_json, sole_writer, write_json

PARTS = "parts.json"
MARK = ".filling"  # suffix of `mark_of`
WHOLE = Part(0, 1)
MAKING = 600  # seconds within which a process that changes files of others has done so, such as the head


@contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Lock files of a cache that several parts of an array job may change: key, head, indices of segments."""
    with sole_writer(folder.resolve() / "cache", patience=MAKING):
        yield


def writer_of(part: Part) -> str:
    """Return the name of a part as a writer of the cache."""
    return f"{part.index:05d}-of-{part.count:05d}"


def mark_of(folder: Path, data: Sequence[str]) -> Path:
    """Return the file that shows that a training fills a cache from data and has not gone through all of it.

    The keys in a cache do not show that: the sample of a key may have changed since. `data` are hashes.
    """
    return folder / (hashlib.sha256(repr(list(data)).encode()).hexdigest()[:16] + MARK)


@contextmanager
def filling(folder: Path, part: Part, data: Sequence[str]) -> Iterator[None]:
    """Lock a cache while it is filled; callers must enter one at a time.

    Args:
        folder: the cache's folder.
        part: the part of an array job; the whole locks out all others.
        data: hashes of the data, the same for all parts of a command.

    Raises:
        UserError: the cache is being filled by another run, by the same part, or by a part of another command.
    """
    if part == WHOLE:
        with sole_writer(folder, inside=True):
            yield
        return
    command = {"parts": part.count, "data": list(data)}
    if is_free(folder, inside=True):
        write_json(folder / PARTS, command)
    with sole_writer(folder, shared=True, inside=True), sole_writer(folder / writer_of(part)):
        there = read_json(folder / PARTS, "wait until nobody fills the cache, then start again")
        if there != command:
            raise UserError(
                f"teacher.cache.path {folder}: another command fills it, in {there.get('parts')} parts (this one in "
                f"{part.count}) or from other data; wait until it ends, or name another folder"
            )
        yield
