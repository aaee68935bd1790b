"""What the page's template shows: texts, lists, drawings and tables, as plain dicts."""

import base64
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation.printable import visible
from evaluation.figures.style import DPI
from evaluation.report.sentence import Sentence
from evaluation.report.table import DASH, GROUPS, Cell, Column, Row, Table

if TYPE_CHECKING:
    from markupsafe import Markup

Part = Mapping[str, Any]
MAX_SVG_BYTES = 300_000
"""A larger drawing (one with many marks) is shown as its PNG."""
LONG = 40
"""Characters from which a cell of words is wrapped."""
SORTED_BY = 3
"""Values of a cell that rows are sorted by: the second where the first are equal, and so on."""


def text(words: str, style: str = "") -> Part:
    """A paragraph; `style` is a class of the style sheet."""
    return {"kind": "text", "text": words, "style": style}


def lines(texts: Iterable[str]) -> Part:
    """A list."""
    return {"kind": "list", "lines": [{"text": words, "arm": None, "word": None} for words in texts]}


def sentences(said: Iterable[Sentence], words: Mapping[str, str] | None = None) -> Part:
    """A list of sentences, their subjects in bold. `words`: of arms, what is claimed of each."""
    from markupsafe import Markup

    return {
        "kind": "list",
        "lines": [
            {
                "text": Markup("<strong>{}</strong>{}" if one.bold else "{}{}").format(
                    visible(one.subject), visible(one.text)
                ),
                "arm": one.subject if words else None,
                "word": words[one.subject] if words else None,
            }
            for one in said
        ],
    }


def figure(stem: Path, caption: str) -> Part | None:
    """A drawing: its SVG, or its PNG where there is none or it is large. None where neither file exists.

    It is a picture of the page (`img`), so that its own styles do not meet the page's policy and nothing
    in it is run. `stem`: the file without its ending. `width`: pixels, where the file does not say how wide
    it is to be shown.
    """
    svg, png = (stem.with_name(f"{stem.name}.{form}") for form in ("svg", "png"))
    is_small = svg.is_file() and (svg.stat().st_size <= MAX_SVG_BYTES or not png.is_file())
    shown, kind = (svg, "image/svg+xml") if is_small else (png, "image/png")
    if not shown.is_file():
        return None
    content = shown.read_bytes()
    # Bytes 16 to 20 of a PNG are its width; the style sheet's pixel is 1/96 inch.
    width = None if is_small else round(int.from_bytes(content[16:20]) * 96 / DPI)
    data = base64.b64encode(content).decode("ascii")
    return {"kind": "figure", "source": f"data:{kind};base64,{data}", "text": caption, "width": width}


def table(table: Table, words: Mapping[str, str]) -> Part:
    """A table with its groups of rows. `words`: arm -> what is claimed of it, for the filter."""
    of_arms = table.columns[0].names[0] == "arm"
    widest = [
        max((len(row.cells[place].text) for row in table.rows), default=0)
        for place in range(len(table.columns))
    ]
    styles = [_style(column, width) for column, width in zip(table.columns, widest, strict=True)]

    def shown(row: Row) -> Part:
        arm = str(row.cells[0].values[0]) if of_arms and row.group != "levels" else None
        cells = [_cell(cell, style) for cell, style in zip(row.cells, styles, strict=True)]
        return {"arm": arm, "word": None if arm is None else words.get(arm, ""), "cells": cells}

    return {
        "kind": "table",
        "text": table.title,
        "notes": table.notes,
        "rows": len(table.rows),
        "columns": [
            {"text": column.title, "style": style, "drawn": None}
            for column, style in zip(table.columns, styles, strict=True)
        ],
        "groups": list(_groups(table, shown)),
    }


def plain_table(header: Sequence["Markup"], rows: Sequence[Sequence["Markup"]]) -> Part:
    """A table of texts; a column is sorted by the numbers that its cells begin with, if they do."""

    def cell(words: "Markup") -> Part:
        plain = words.striptags()
        return {"text": words, "style": "long" if len(plain) > LONG else "", "key": _number(plain)}

    shown = [{"arm": None, "word": None, "cells": [cell(words) for words in row]} for row in rows]
    return {
        "kind": "table",
        "text": "",
        "notes": "",
        "rows": len(rows),
        "columns": [{"text": title, "style": "", "drawn": None} for title in header],
        "groups": [{"tag": "tbody", "text": "", "rows": shown}],
    }


def _number(words: str) -> str | None:
    """The number that a text begins with (`1,234`, `+2.0 [...]`, `31 %`); "" for a dash or nothing."""
    if words in ("", DASH):
        return ""
    found = re.match(r"(?:< )?([+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?)(?![\w.])", words)
    return found[1].replace(",", "") if found else None


def _groups(table: Table, shown: Callable[[Row], Part]) -> Iterator[Part]:
    """The rows in the table's order; levels, which are no arms, stay below whatever the order is."""
    for name, rows in groupby(table.rows, key=lambda row: row.group):
        tag = "tfoot" if name == "levels" else "tbody"
        words = GROUPS[name] if table.grouped and name != "levels" else ""
        yield {"tag": tag, "text": words, "rows": [shown(row) for row in rows]}


def with_drawings(part: Part, place: int, title: str, scale: Any, drawn: Mapping[str, Any]) -> Part:
    """The table with one more column before `place`: a drawing for each arm, and the scale above them."""
    columns = list(part["columns"])
    columns.insert(place, {"text": title, "style": "drawn", "drawn": scale})

    def widened(row: Part) -> Part:
        cells = list(row["cells"])
        cells.insert(place, {"text": drawn.get(row["arm"], ""), "style": "drawn", "key": None})
        return {**row, "cells": cells}

    groups = [{**group, "rows": [widened(row) for row in group["rows"]]} for group in part["groups"]]
    return {**part, "columns": columns, "groups": groups}


def _cell(cell: Cell, style: str) -> Part:
    styles = " ".join(name for name in (style, cell.mark) if name)
    return {"text": cell.text, "style": styles, "key": _key(cell.values)}


def _key(values: Sequence[Any]) -> str | None:
    """What a column is sorted by: the first numbers; "" if the first is unknown; None: the text itself."""
    known = []
    for value in values[:SORTED_BY]:
        if value is None or (not isinstance(value, str) and not math.isfinite(value)):
            break
        known.append(value)
    if any(isinstance(value, str) for value in known[:1]):
        return None if known[0] else ""
    return " ".join(f"{value:.7g}" for value in known if not isinstance(value, str))


def _style(column: Column, widest: int) -> str:
    """Words are at the left, and wrapped where some are long."""
    return ("long" if widest > LONG else "left") if column.left else ""
