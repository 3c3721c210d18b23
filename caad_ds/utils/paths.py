"""Check a command's paths before slow imports.

With several ranks a missing path is not refused here, but later, where all ranks can agree on it.
"""

from pathlib import Path

from caad_ds.utils.errors import UserError
from caad_ds.utils.launch import is_alone


def existing(text: str | Path) -> Path:
    """Return an argument's path; UserError if it does not exist."""
    path = Path(text)
    if is_alone() and not path.exists():
        raise UserError(f"{path}: no such file or folder; check the path")
    return path


def new_file(text: str | Path) -> Path:
    """Return the path of a file that a command writes at its end; UserError if it is a folder."""
    path = Path(text)
    if is_alone() and path.is_dir():
        raise UserError(f"{path}: it is a folder; name a file in it, such as {path / 'result.json'}")
    return path


def page_file(text: str | Path) -> Path:
    """Return the path of a page that a command writes; UserError unless it ends in .html, since an existing file is
    replaced."""
    if Path(text).suffix != ".html":
        raise UserError(f"{text}: the page replaces what is there; name a file that ends in .html")
    return new_file(text)
