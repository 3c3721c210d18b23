"""Reading text: UTF-8 with or without a byte order mark, with any line ending; all that reads text calls this.

A byte order mark is dropped at the start of a file and of a line, where `cat` leaves one between two files. Bytes that
are not UTF-8 are an error that says where they stand.
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
}  # by the byte order mark that the file begins with, the longer ones first

# Soft hyphen, zero-width space, marks of direction, word joiner, byte order mark; not the joiners, which words end in.
MARKS = "\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff"
AROUND = re.compile(rf"\A[\s{MARKS}]+|[\s{MARKS}]+\Z")
WHOLE = re.compile(r"(-?\d+)\.0+")


class TextError(UserError, ValueError):
    """Bytes that are not the text they should be; a ValueError too, as what JSON and YAML raise about their text is."""


def as_text(value: object) -> str:
    """A value of metadata as it is compared and shown: a text as it is, numbers and booleans as JSON writes them."""
    return json.dumps(value) if isinstance(value, bool | int | float) else str(value)


def trimmed(text: str) -> str:
    """A text without the white space and the invisible marks around it, as spreadsheets and web pages leave them."""
    return AROUND.sub("", text)


def comparable(value: object) -> str:
    """A value of metadata so that one value written in two ways is one text.

    Accents are composed (macOS parts them in names of files), a whole number has no fraction (pandas writes 17.0 in a
    column with gaps, as a number or a text), and what `trimmed` takes away is gone.
    """
    text = normalize("NFC", trimmed(as_text(value)))
    return whole[1] if (whole := WHOLE.fullmatch(text)) else text


def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An `object_pairs_hook` for `json.loads`, which would take the last of two values of one key and say nothing.

    ValueError for such a key.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        [(double, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"key {double!r:.60} comes twice")
    return found


def decode(data: bytes, where: object, errors: str = "strict") -> str:
    """Bytes as text, without a byte order mark; TextError, which begins with `where` and names the line.

    `errors` as in `bytes.decode`; with "replace" the caller looks for what came of it.
    """
    _refuse_wide(data, where)
    try:
        return data.removeprefix(BOM).decode(errors=errors)
    except UnicodeDecodeError as error:
        before = error.object[: error.start]
        line = before.count(b"\n") + before.replace(b"\r\n", b"").count(b"\r") + 1
        raise TextError(f"{where} line {line}: not UTF-8 text ({error.reason}); save the file as UTF-8") from None


def decode_line(line: bytes, errors: str = "strict") -> str:
    """A line of `numbered` as text, without its end; TextError, which says nothing of where."""
    try:
        return line.removeprefix(BOM).rstrip(b"\r\n").decode(errors=errors)
    except UnicodeDecodeError as error:
        raise TextError(f"not UTF-8 text ({error.reason}); save the file as UTF-8") from None


def read_text(path: Path, errors: str = "strict") -> str:
    """A whole file as text, with `\\n` for every line ending.

    TextError where it is not UTF-8 (see `decode`), OSError where it cannot be read.
    """
    return decode(path.read_bytes(), path, errors).replace("\r\n", "\n").replace("\r", "\n")


def numbered(path: Path) -> Iterator[tuple[int, bytes]]:
    """The number (from 1) and the bytes of each line, with its end and what may precede it, one in memory at a time.

    For files of which one bad line does not stop the others: `decode_line` takes each. TextError for UTF-16 and UTF-32,
    OSError where the file cannot be read.
    """
    number = 0
    with open(path, "rb") as file:
        _refuse_wide(file.peek(4), path)
        for block in file:
            for line in block.splitlines(keepends=True):
                number += 1
                yield number, line


def read_lines(path: Path, errors: str = "strict") -> Iterator[tuple[int, str]]:
    """The number (from 1) and the text of each line, without its end; errors as `read_text`."""
    for number, line in numbered(path):
        try:
            yield number, decode_line(line, errors)
        except TextError as error:
            raise TextError(f"{path} line {number}: {error}") from None


def _refuse_wide(data: bytes, where: object) -> None:
    if kind := next((kind for mark, kind in WIDE.items() if data.startswith(mark)), None):
        raise TextError(f"{where}: {kind} text; save the file as UTF-8")
    if b"\0" in data[:2]:  # the first characters of such a text without its mark
        raise TextError(f"{where}: not UTF-8 text (zero bytes, as UTF-16 has them); save the file as UTF-8")


def is_text(row: object) -> bool:
    """Whether all texts in what JSON gave can be written again; half of a surrogate pair, `"\\ud800"`, cannot."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
