"""JSONL files: an object per line, read line by line so that one bad line does not hide the others."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from caad_ds.utils.errors import UserError
from caad_ds.utils.text import BOM, TextError, decode_line, each_once, numbered
from data_prep.common import file_formats


@dataclass(frozen=True)
class Rejected:
    """A record that a step leaves out: its id (or file name and line, without one) and the reason."""

    id: str
    reason: str


def read_rows(path: Path) -> Iterator[tuple[int, dict | Rejected]]:
    """Yield line number (from 1) and object of each non-blank line, `Rejected` if it is none; UserError for no file."""
    with readable(path):
        for number, line in numbered(path):
            if line.removeprefix(BOM).strip():
                yield number, _object(line, f"{path.name} line {number}")


def read_jsonl(path: Path) -> Iterator[tuple[int, dict]]:
    """Like `read_rows`, but raise UserError for a line that is not a JSON object: for files written by this project."""
    for number, row in read_rows(path):
        if isinstance(row, Rejected):
            raise UserError(f"{path} line {number}: {row.reason}")
        yield number, row


def count_lines(path: Path) -> int:
    """Count the lines of a file, blank ones included: the total of a progress bar."""
    with opened(path) as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def require_jsonl(path: Path) -> None:
    """Raise UserError, which names what reads the file, if it is CSV, TSV, Parquet or one JSON array."""
    if found := file_formats.check_jsonl(path, start_of(path)):
        raise UserError(f"{path}: {found}")


def start_of(path: Path) -> bytes:
    """Read the first bytes of a file, to recognise its format; none of a pipe, which can be read only once."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        return b""
    with opened(path) as file:
        return file.read(file_formats.START)


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """Open a file to read bytes; UserError if it cannot be opened or read."""
    with readable(path), open(path, "rb") as file:
        yield file


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Convert errors of reading a file in the body to UserError."""
    try:
        yield
    except IsADirectoryError as error:
        raise UserError(f"{path}: {file_formats.in_folder(path)}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def _object(line: bytes, where: str) -> dict | Rejected:
    try:
        value = json.loads(decode_line(line), parse_constant=_refuse, parse_float=_finite, object_pairs_hook=each_once)
        if b"\\u" in line:  # an escape may be half a surrogate pair, which cannot be written to a file
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return Rejected(where, "it holds half a surrogate pair, which is no text; is an emoji cut in two?")
    except TextError as error:
        return Rejected(where, f"it is {error}; is it a JSONL file?")
    except json.JSONDecodeError as error:
        return Rejected(where, f"it is not JSON ({error.msg}, column {error.colno}); is the file cut short?")
    except RecursionError:
        return Rejected(where, "it is JSON nested too deeply")
    except ValueError as error:  # NaN, 1e999, a key that comes twice, an integer of thousands of digits
        return Rejected(where, f"it is not JSON ({error})")
    return value if isinstance(value, dict) else Rejected(where, f"a record must be a JSON object, not {value!r:.60}")


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def _finite(number: str) -> float:
    """Parse a float; reject 1e999, which Python reads as infinity and JSON cannot hold."""
    if math.isinf(value := float(number)):
        raise ValueError(f"{number:.20} is beyond floating point")
    return value
