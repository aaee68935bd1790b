"""A table of the report: one model, written as Markdown, CSV, LaTeX (`evaluation.report.latex`) and HTML.

A cell has the text that is shown and, for CSV and for sorting, its values in full precision.
"""

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from curation.printable import inert, visible

DASH = "–"
"""The text of an unknown value."""
Value = float | int | str | None
Mark = Literal["", "best", "second"]
Group = Literal["arms", "controls", "levels"]
GROUPS: dict[Group, str] = {"arms": "under test", "controls": "controls", "levels": "levels"}
"""Word of each group of rows in CSV; the groups are set apart where a table has several."""


@dataclass(frozen=True)
class Cell:
    """`text`: no markup. `values`: one for each of the column's `names`. `mark`: as in a paper's table."""

    text: str
    values: tuple[Value, ...]
    mark: Mark = ""


@dataclass(frozen=True)
class Column:
    """`names`: of its values in CSV. `left`: aligned left, as words are. `foreign`: text of others, such as
    names of arms and benchmarks, which a writer must escape."""

    title: str
    names: tuple[str, ...]
    left: bool = False
    foreign: bool = False


@dataclass(frozen=True)
class Row:
    """One line of the table, a cell for each column."""

    cells: tuple[Cell, ...]
    group: Group = "arms"


@dataclass(frozen=True)
class Table:
    """`name`: stem of its files. `notes`: what the columns mean. ValueError for rows of another width."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            _check(self.name, self.columns, row)

    def only(self, kept: Sequence[int]) -> "Table":
        """The table with the columns at these places."""
        rows = (replace(row, cells=tuple(row.cells[k] for k in kept)) for row in self.rows)
        return replace(self, columns=tuple(self.columns[k] for k in kept), rows=tuple(rows))

    @property
    def grouped(self) -> bool:
        """Whether the rows are of more than one group."""
        return len({row.group for row in self.rows}) > 1


def _check(name: str, columns: Sequence[Column], row: Row) -> None:
    if len(row.cells) != len(columns):
        raise ValueError(f"table {name}: a row of {len(row.cells)} cells, it needs {len(columns)}")
    for column, cell in zip(columns, row.cells, strict=True):
        if len(cell.values) != len(column.names):
            raise ValueError(f"table {name}, column {column.title}: {len(cell.values)} values in a cell")


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table: the first column left-aligned, the others right-aligned, pipes in cells escaped."""
    if any(len(row) != len(header) for row in rows):
        raise ValueError(f"every row needs {len(header)} cells")
    return _lines(header, [":--", *["--:"] * (len(header) - 1)], rows)


def as_markdown(table: Table) -> str:
    """The table as Markdown: best in bold, second in italics, a line that says where the controls begin."""
    header = [_words(column.title, column) for column in table.columns]
    rows: list[list[str]] = []
    before: Group = "arms"
    for row in table.rows:
        if row.group != before and row.group == "controls":
            rows.append([f"*{GROUPS[row.group]}*", *[""] * (len(header) - 1)])
        before = row.group
        rows.append([_marked(cell, column) for cell, column in zip(row.cells, table.columns, strict=True)])
    return _lines(header, [":--" if column.left else "--:" for column in table.columns], rows)


def _lines(header: Sequence[str], alignment: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return (
        "\n".join(
            "| " + " | ".join(_one_line(str(cell)).replace("|", "\\|") for cell in line) + " |"
            for line in [header, alignment, *rows]
        )
        + "\n"
    )


def _one_line(text: str) -> str:
    """A line break in a cell would end its table."""
    return text if text.isprintable() else visible(text)


def _words(text: str, column: Column) -> str:
    return _inert(text) if column.foreign else text


@lru_cache(maxsize=1 << 14)
def _inert(text: str) -> str:
    return inert(text)


def _marked(cell: Cell, column: Column) -> str:
    around: dict[Mark, str] = {"": "", "best": "**", "second": "*"}
    return f"{around[cell.mark]}{_words(cell.text, column)}{around[cell.mark]}"


def as_csv(table: Table) -> str:
    """The table's values in full precision (RFC 4180, \\n at line ends): one header row, no markup.

    A value that is not known is empty. The first column says which group a row is of, where there are
    several. Text that a spreadsheet would take for a formula gets a leading apostrophe.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    names = [name for column in table.columns for name in column.names]
    writer.writerow([*(["group"] if table.grouped else []), *map(_plain, names)])
    for row in table.rows:
        group = [GROUPS[row.group]] if table.grouped else []
        writer.writerow([*group, *(_plain(value) for cell in row.cells for value in cell.values)])
    return stream.getvalue()


def _plain(value: Value) -> str:
    """A value of a CSV file; what is no finite number is not known, as in comparison.json."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return str(value) if math.isfinite(value) else ""
    text = visible(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def text_cell(text: str) -> Cell:
    """A cell of words."""
    return Cell(text, (text,))


def number_cell(value: float | int | None, form: Callable[[float], str]) -> Cell:
    """A cell of one number; a dash where it is not known."""
    known = value is not None and math.isfinite(value)
    return Cell(form(value) if known and value is not None else DASH, (value,))
