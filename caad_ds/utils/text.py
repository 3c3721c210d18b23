"""Read text: UTF-8 with or without a byte order mark, with any line ending.

A byte order mark is dropped at the start of a file and of a line, where `cat` leaves one between two files. Bytes that
are not UTF-8 raise an error with their location.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unicodedata import normalize

from caad_ds.utils.errors import UserError

BOM = b"\xef\xbb\xbf"
WIDE = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}  # by byte order mark, the longer ones first

# Soft hyphen, zero-width space, marks of direction, word joiner, byte order mark; not joiners, with which words end.
MARKS = "\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff"
AROUND = re.compile(rf"\A[\s{MARKS}]+|[\s{MARKS}]+\Z")
WHOLE = re.compile(r"(-?\d+)\.0+")


class TextError(UserError, ValueError):
    """Bytes that are not valid text; also a ValueError, like JSON's and YAML's errors about their text."""


def as_text(value: object) -> str:
    """Convert a metadata value for comparing and showing: texts are unchanged, numbers and booleans are as in JSON."""
    return json.dumps(value) if isinstance(value, bool | int | float) else str(value)


def trimmed(text: str) -> str:
    """Strip white space and invisible marks around a text, as from spreadsheets and web pages."""
    return AROUND.sub("", text)


def comparable(value: object) -> str:
    """Normalize a metadata value, so different spellings of a value are equal.

    Accents are composed (macOS decomposes them in file names), integers have no fraction (pandas writes 17.0 in a
    column with gaps, as a number or a text), and `trimmed` is applied.
    """
    text = normalize("NFC", trimmed(as_text(value)))
    return whole[1] if (whole := WHOLE.fullmatch(text)) else text


def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An `object_pairs_hook` for `json.loads`, which would silently take the last value of a duplicate key.

    ValueError for such a key.
    """
    values = dict(pairs)
    if len(values) < len(pairs):
        [(double, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"key {double!r:.60} comes twice")
    return values


def decode(data: bytes, where: object, errors: str = "strict") -> str:
    """Decode bytes to text without a byte order mark; TextError begins with `where` and names the line.

    `errors` as in `bytes.decode`; with "replace" the caller handles replaced characters.
    """
    _refuse_wide(data, where)
    try:
        return data.removeprefix(BOM).decode(errors=errors)
    except UnicodeDecodeError as error:
        before = error.object[: error.start]
        line = before.count(b"\n") + before.replace(b"\r\n", b"").count(b"\r") + 1
        raise TextError(f"{where} line {line}: not UTF-8 text ({error.reason}); save the file as UTF-8") from None


def decode_line(line: bytes, errors: str = "strict") -> str:
    """Decode a line of `numbered` to text without its end; TextError without a location."""
    try:
        return line.removeprefix(BOM).rstrip(b"\r\n").decode(errors=errors)
    except UnicodeDecodeError as error:
        raise TextError(f"not UTF-8 text ({error.reason}); save the file as UTF-8") from None


def read_text(path: Path, errors: str = "strict") -> str:
    """Read a whole file as text, with `\\n` for every line ending.

    TextError if it is not UTF-8 (see `decode`), OSError if it cannot be read.
    """
    return decode(path.read_bytes(), path, errors).replace("\r\n", "\n").replace("\r", "\n")


def numbered(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield number (from 1) and bytes of each line, with its end and any byte order mark, one in memory at a time.

    For files in which a bad line must not stop the others: pass each to `decode_line`. TextError for UTF-16 and UTF-32,
    OSError if the file cannot be read.
    """
    number = 0
    with open(path, "rb") as file:
        _refuse_wide(file.peek(4), path)
        for block in file:
            for line in block.splitlines(keepends=True):
                number += 1
                yield number, line


def read_lines(path: Path, errors: str = "strict") -> Iterator[tuple[int, str]]:
    """Yield number (from 1) and text of each line, without its end; errors as in `read_text`."""
    for number, line in numbered(path):
        try:
            yield number, decode_line(line, errors)
        except TextError as error:
            raise TextError(f"{path} line {number}: {error}") from None


def _refuse_wide(data: bytes, where: object) -> None:
    if kind := next((kind for mark, kind in WIDE.items() if data.startswith(mark)), None):
        raise TextError(f"{where}: {kind} text; save the file as UTF-8")
    if b"\0" in data[:2]:  # UTF-16 or UTF-32 without a byte order mark
        raise TextError(f"{where}: not UTF-8 text (zero bytes, as UTF-16 has them); save the file as UTF-8")


def is_text(row: object) -> bool:
    """Return whether all texts in a JSON value can be written; half of a surrogate pair, `"\\ud800"`, cannot."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
