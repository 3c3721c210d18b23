"""Absolute paths inside texts that leave this machine."""

import re
from pathlib import Path, PurePosixPath, PureWindowsPath

_PART = r"[^\s/\\'\"`<>|,;()\[\]{}*?]"
# In a text a path has two parts at least: a single one, as in a chat template's "/think", is as often a word.
_POSIX = rf"(?:\b(?:file|sqlite):/{{2,}}|(?<![\w/.~<\\])/(?!/)){_PART}+(?:/+{_PART}+)+"
_WINDOWS = rf"(?<![A-Za-z])[A-Za-z]:\\+{_PART}+(?:\\+{_PART}+)+"
WITHIN = re.compile(f"{_POSIX}|{_WINDOWS}")
# Where machines keep files; what begins otherwise is in a text as often a route of the web ("POST /v1/chat").
_ROOTS = (
    "home root Users data mnt tmp scratch srv opt var work workspace media lustre gpfs nfs net private project projects"
)
_KEPT = re.compile(rf"(?<![\w/.~<\\])/(?:{'|'.join(_ROOTS.split())})(?:/+{_PART}+)+/?")


def machine_path(text: str, prose: bool = False) -> str | None:
    """The first absolute path in a text; None where there is none.

    In `prose`, which names routes and examples too, one of this machine's folders or of where machines keep files.
    """
    for found in WITHIN.finditer(text):
        if not prose or _KEPT.match(found[0]) or found[0].startswith(("file:", "sqlite:")) or "\\" in found[0]:
            return found[0]
        if Path(found[0]).exists():
            return found[0]
    return text if re.fullmatch(rf"/{_PART}+/?", text) and Path(text).exists() else None


def shortened(text: str) -> str:
    """A text with the last part alone of each absolute path in it."""
    for kind in (PurePosixPath, PureWindowsPath):
        if (path := kind(text)).is_absolute():
            return path.name
    return WITHIN.sub(lambda found: re.split(r"[/\\]+", found[0].rstrip("/\\"))[-1], text)
