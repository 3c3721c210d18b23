"""A CSV or TSV file with a header, a line per recording, such as Common Voice's `validated.tsv`.

    caad-ds prep ingest csv --root validated.tsv --audio-root clips \\
        --map audio=path text=sentence speaker=client_id --out all.jsonl

The header is the first line that is not blank. The separator of a `.tsv` is the tab; elsewhere it is the one of
`, ; | tab` that splits the header into most columns. In a CSV, cells may be quoted, also after a space, and then may
hold line breaks; in a TSV, a quote is an ordinary character, except that one pair around a whole cell is removed. A
line is rejected if its quotes do not close, or close only after lines that look like further rows, or if its number of
cells differs from the header's. Reading continues on the line after it.
"""

import csv
import re
import shlex
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from caad_ds.utils.errors import UserError
from caad_ds.utils.text import BOM, TextError, decode_line, numbered
from data_prep.common import file_formats
from data_prep.common.jsonl import Rejected, start_of
from data_prep.ingest.table import Row

SEPARATORS = (",", ";", "\t", "|")
EXCEL = re.compile(r'"?sep=(.)"?')  # Excel's first line that names the separator


def rows(root: Path) -> Iterator[Row | Rejected]:
    """Yield a row per line below the header; UserError without a header or file."""
    if root.is_dir():
        raise UserError(f"{root}: {file_formats.in_folder(root)}")
    return read(root, root)


def read(listing: Path, root: Path) -> Iterator[Row | Rejected]:
    """Yield the rows of a file at or below `root`."""
    _require_table(listing)
    lines = _Lines(listing)
    separator, header = _header(lines, listing)
    for number, cells in _cells(lines, separator, len(header)):
        values = _values(cells, header) if isinstance(cells, list) and any(cells) else cells
        if isinstance(values, dict):
            yield Row(listing, root, number, values)
        elif values and isinstance(values, str):
            yield Rejected(Row(listing, root, number, {}).where, values)


class _Lines:
    """The numbered lines of a file; lines that were taken can be put back."""

    def __init__(self, path: Path) -> None:
        self._rest = numbered(path)
        self._back: deque[tuple[int, bytes]] = deque()

    def take(self) -> tuple[int, bytes] | None:
        """Return the next line, None at the end."""
        return self._back.popleft() if self._back else next(self._rest, None)

    def put_back(self, lines: list[tuple[int, bytes]]) -> None:
        """Put back the lines that were taken last."""
        self._back.extendleft(reversed(lines))


def _require_table(path: Path) -> None:
    start = start_of(path)
    if start.startswith(b"PAR1"):
        raise UserError(f"{path}: {file_formats.check_jsonl(path, start)}")
    if start.removeprefix(BOM).lstrip().startswith(b"{"):
        quoted = shlex.quote(str(path))
        raise UserError(f"{path}: it looks like JSONL, not CSV; `caad-ds prep ingest jsonl --root {quoted}` reads it")


def _header(lines: _Lines, path: Path) -> tuple[str, list[str]]:
    """Return separator and column names (the number for one without a name); UserError if two are alike."""
    separator = "\t" if path.suffix.lower() == ".tsv" else ""
    first = _not_blank(lines)
    if first and (excel := EXCEL.fullmatch(decode_line(first[1], "replace").strip())):
        separator, first = excel[1], _not_blank(lines)
    if first is None:
        raise UserError(f"{path}: it is empty; its first line must name the columns")
    choices = (separator,) if separator else SEPARATORS
    try:
        text = decode_line(first[1]) + "\n"
        parted = {choice: [cell.strip() for cell in next(_reader(iter([text]), choice))] for choice in choices}
    except (csv.Error, TextError) as error:
        raise UserError(f"{path} line {first[0]}: the header cannot be read ({error}); correct it") from error
    separator = max(choices, key=lambda choice: len(parted[choice]))
    names = [cell or f"column {number}" for number, cell in enumerate(parted[separator], 1)]
    if doubles := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{path}: two columns are called {doubles[0]!r}; rename one of them")
    return separator, names


def _not_blank(lines: _Lines) -> tuple[int, bytes] | None:
    """Return the next line that is not blank, None at the end."""
    return next((line for line in iter(lines.take, None) if line[1].removeprefix(BOM).strip()), None)


def _cells(lines: _Lines, separator: str, columns: int) -> Iterator[tuple[int, list[str] | str]]:
    """Yield the number of each row's first line with its stripped cells, or with the reason why it cannot be read.

    A missing closing quote would swallow rows up to the next quote. So a row is refused if its further lines are rows
    of `columns` cells by themselves.
    """
    while (line := lines.take()) is not None:
        lines.put_back([line])
        taken: list[tuple[int, bytes]] = []
        try:
            cells = next(_reader(_texts(lines, taken), separator), [])
        except (csv.Error, TextError) as error:
            lines.put_back(taken[1:])
            of_cells = f"its cells cannot be separated ({error})"
            yield line[0], f"it is {error}" if isinstance(error, TextError) else of_cells
            continue
        if columns > 1 and any(_width(decode_line(text), separator) == columns for _, text in taken[1:]):
            lines.put_back(taken[1:])
            yield line[0], f"its quotes end in line {taken[-1][0]}, and lines between look like rows; close the quote"
            continue
        yield line[0], [cell.strip() for cell in cells]


def _width(text: str, separator: str) -> int:
    """Count the cells of a single line."""
    return len(next(csv.reader([text], delimiter=separator, skipinitialspace=True), []))


def _reader(texts: Iterator[str], separator: str) -> Iterator[list[str]]:
    if separator != "\t":
        # Quotes after the blank of `a.wav, "one, two"` are quotes too.
        return csv.reader(texts, delimiter=separator, skipinitialspace=True, strict=True)
    return ([_unquoted(cell) for cell in text.rstrip("\n").split("\t")] for text in texts)


def _texts(lines: _Lines, taken: list[tuple[int, bytes]]) -> Iterator[str]:
    while (line := lines.take()) is not None:
        taken.append(line)
        yield decode_line(line[1]) + "\n"


def _unquoted(cell: str) -> str:
    """Remove the quotes that a program put around a cell of a TSV."""
    inner = cell.strip()[1:-1]
    whole = len(cell.strip()) > 1 and cell.strip()[0] == cell.strip()[-1] == '"'
    return inner.replace('""', '"') if whole and '"' not in inner.replace('""', "") else cell


def _values(cells: list[str], header: list[str]) -> dict[str, str | None] | str:
    """Return the cells by column, None for an empty one; a message if their number is wrong."""
    if len(cells) != len(header) and (len(cells) < len(header) or any(cells[len(header) :])):
        return f"it has {len(cells)} cells, the header {len(header)} columns ({', '.join(header)})"
    return {name: cell or None for name, cell in zip(header, cells)}
