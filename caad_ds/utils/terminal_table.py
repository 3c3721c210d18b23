"""Fit tables to a terminal: headers and names wrap, numbers never do.

If a table is too wide, its headers are wrapped; else it is transposed; else its columns are split over several tables
with the same first column.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.table import Table as RichTable

LONGEST_CELL = 32  # longer ones are text, such as a device, and may wrap
SHORTEST_NAME = 12
BETWEEN, EDGES = 3, 2  # blanks between columns, and at both ends of a line


@dataclass(frozen=True)
class Table:
    """Header and rows of a table as texts; the first column names the rows."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def fitted(self, width: int) -> list[RichTable]:
        """Return the table fitted to `width` columns: whole, transposed, or in parts."""
        for table in (self, self._transposed()):
            for widths in (table._widths(wrap=False), table._widths(wrap=True)):
                if _total(widths) <= width:
                    return [table._drawn(table.title, range(len(widths)), widths)]
        return self._parts(width)

    def _transposed(self) -> "Table":
        first, *columns = zip(self.header, *self.rows, strict=True)
        return Table(self.title, first, columns)

    def _widths(self, wrap: bool) -> list[int]:
        """Return each column's width: of its cells and header, or with `wrap` of the longest word of wrappable text."""
        widths = []
        for header, *cells in zip(self.header, *self.rows, strict=True):
            texts = [*cells, *header.split()] if wrap else [*cells, header]
            if wrap:
                texts = [part for text in texts for part in (text.split() if cell_len(text) > LONGEST_CELL else [text])]
            widths.append(max(map(cell_len, texts), default=0))
        return widths

    def _parts(self, width: int) -> list[RichTable]:
        """Return tables of as many columns as fit beside the first one, whose long names are wrapped."""
        widths = self._widths(wrap=True)
        widths[0] = min(widths[0], max(SHORTEST_NAME, width // 3))
        groups: list[list[int]] = []
        for k in range(1, len(widths)):
            if groups and _total([widths[0], *(widths[j] for j in groups[-1]), widths[k]]) <= width:
                groups[-1].append(k)
            else:
                groups.append([k])
        titles = [f"{self.title} ({number} of {len(groups)})" for number in range(1, len(groups) + 1)]
        return [
            self._drawn(title, [0, *group], [widths[0], *(widths[k] for k in group)])
            for title, group in zip(titles, groups, strict=True)
        ]

    def _drawn(self, title: str, columns: Sequence[int], widths: Sequence[int]) -> RichTable:
        """Draw some of the columns, at these widths."""
        table = RichTable(title=title, box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
        for k, width in zip(columns, widths, strict=True):
            table.add_column(self.header[k], justify="right" if k else "left", overflow="fold", width=width)
        for row in self.rows:
            table.add_row(*(row[k] for k in columns))
        return table


def _total(widths: Sequence[int]) -> int:
    """Return the length of a line with columns of these widths."""
    return sum(widths) + BETWEEN * (len(widths) - 1) + EDGES
