"""Escape a user's text for Markdown."""

import re

from caad_ds.utils.absolute_paths import shortened
from caad_ds.utils.text import trimmed

SPECIAL = re.compile(r"([\\`*_\[\]|~$])")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
LONGEST = 200
ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def plain(value: object, longest: int = LONGEST) -> str:
    """Return a value in one line that Markdown shows literally, even in a table cell; see `one_line`."""
    text = one_line(value, longest)
    text = "".join(ENTITIES.get(character, character) for character in text)
    return SPECIAL.sub(r"\\\1", text)


def one_line(value: object, longest: int = LONGEST) -> str:
    """Return a value in one line without control characters, truncated, with absolute paths shortened."""
    text = shortened(trimmed(" ".join(CONTROL.sub(" ", str(value)).split())))
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def code(value: object) -> str:
    """Return a value in one line as code, even in a table cell; see `one_line`."""
    return "`" + one_line(value).replace("`", "'").replace("|", "\\|") + "`"
