"""Find absolute paths in texts that are published."""

import re
from pathlib import Path, PurePosixPath, PureWindowsPath

_PART = r"[^\s/\\'\"`<>|,;()\[\]{}*?]"
# In a text a path has at least two parts: a single one, as in a chat template's "/think", may be a word.
_POSIX = rf"(?:\b(?:file|sqlite):/{{2,}}|(?<![\w/.~<\\])/(?!/)){_PART}+(?:/+{_PART}+)+"
_WINDOWS = rf"(?<![A-Za-z])[A-Za-z]:\\+{_PART}+(?:\\+{_PART}+)+"
WITHIN = re.compile(f"{_POSIX}|{_WINDOWS}")
# Usual root folders; other paths in a text may be routes of the web ("POST /v1/chat").
_ROOTS = (
    "home root Users data mnt tmp scratch srv opt var work workspace media lustre gpfs nfs net private project projects"
)
_KEPT = re.compile(rf"(?<![\w/.~<\\])/(?:{'|'.join(_ROOTS.split())})(?:/+{_PART}+)+/?")


def machine_path(text: str, prose: bool = False) -> str | None:
    """Return the first absolute path in a text; None if there is none.

    In `prose`, which may contain routes and examples, only an existing path or one in a usual root folder.
    """
    for found in WITHIN.finditer(text):
        if not prose or _KEPT.match(found[0]) or found[0].startswith(("file:", "sqlite:")) or "\\" in found[0]:
            return found[0]
        if Path(found[0]).exists():
            return found[0]
    return text if re.fullmatch(rf"/{_PART}+/?", text) and Path(text).exists() else None


def shortened(text: str) -> str:
    """Shorten each absolute path in a text to its last part."""
    for kind in (PurePosixPath, PureWindowsPath):
        if (path := kind(text)).is_absolute():
            return path.name
    return WITHIN.sub(lambda found: re.split(r"[/\\]+", found[0].rstrip("/\\"))[-1], text)
