"""Absolute paths inside texts that leave this machine."""

import re
from pathlib import PurePosixPath, PureWindowsPath

_PART = r"[^\s/\\'\"`<>|,;()\[\]{}*?]"
# In a text a path has two parts at least: a single one, as in a chat template's "/think", is as often a word.
_POSIX = rf"(?:\b(?:file|sqlite):/{{2,}}|(?<![\w/.~<\\])/(?!/)){_PART}+(?:/+{_PART}+)+"
_WINDOWS = rf"(?<![A-Za-z])[A-Za-z]:\\+{_PART}+(?:\\+{_PART}+)*"
WITHIN = re.compile(f"{_POSIX}|{_WINDOWS}")
_ALONE = re.compile(rf"/{_PART}*[\w]{_PART}*/?")


def machine_path(text: str) -> str | None:
    """The first absolute path in a text; None where there is none. A text of one word is one by its first slash."""
    if found := WITHIN.search(text):
        return found[0]
    return text if _ALONE.fullmatch(text) else None


def shortened(text: str) -> str:
    """A text with the last part alone of each absolute path in it."""
    for kind in (PurePosixPath, PureWindowsPath):
        if (path := kind(text)).is_absolute():
            return path.name
    return WITHIN.sub(lambda found: re.split(r"[/\\]+", found[0].rstrip("/\\"))[-1], text)
