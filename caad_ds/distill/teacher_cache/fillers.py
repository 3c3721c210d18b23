"""Who may fill a cache at the same time: one run alone, or the parts of one command."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from caad_ds.utils.array_part import Part
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import is_free, read_json, sole_writer, write_json

PARTS = "parts.json"
WHOLE = Part(0, 1)


def writer_of(part: Part) -> str:
    """The name of a part among those who fill a cache."""
    return f"{part.index:05d}-of-{part.count:05d}"


@contextmanager
def filling(folder: Path, part: Part, data: Sequence[str]) -> Iterator[None]:
    """Hold a cache while it is filled; for one who begins at a time.

    Args:
        folder: that of the cache.
        part: that of an array job; of the whole nobody else may fill it.
        data: the hashes of what is gone through, which all parts of a command share.

    Raises:
        UserError: another run fills it, the same part of a command, or a part of another command.
    """
    if part == WHOLE:
        with sole_writer(folder):
            yield
        return
    command = {"parts": part.count, "data": list(data)}
    if is_free(folder):
        write_json(folder / PARTS, command)
    with sole_writer(folder, shared=True), sole_writer(folder / writer_of(part)):
        there = read_json(folder / PARTS, "wait until nobody fills the cache, then start again")
        if there != command:
            raise UserError(
                f"teacher.cache.path {folder}: another command fills it, in {there.get('parts')} parts (this one in "
                f"{part.count}) or from other data; wait until it ends, or name another folder"
            )
        yield
