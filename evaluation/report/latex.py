"""Tables as LaTeX (booktabs, best in bold and second underlined), and a document of all for pdflatex.

The files are ASCII and name the packages that they need, so that each can be read into any document with
`\\input`. A table that is wide is set small, on its side, or in parts; one of many rows goes over pages.
"""

import re
import textwrap
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

from curation.printable import visible
from evaluation.report.table import Cell, Column, Group, Mark, Row, Table

MAX_ROWS = 40
"""A table of more rows is a `longtable`, which goes over pages."""
UPRIGHT, UPRIGHT_LONG = 125, 95
"""Characters of a line that fit on an upright page in a legible size; wider tables are set on their side.
A table on one page can be scaled down a little, a `longtable` cannot."""
SIDEWAYS, SIDEWAYS_LONG = 250, 170
"""Characters of a line that fit on a page on its side; a wider table comes in parts."""
TITLE_WIDTH = 9
"""Characters that a line of a column's title may have even where the cells are narrower."""
SPECIALS = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "{''}",
    "'": "{'}",
    "`": "{`}",
    "[": "{[}",
    "]": "{]}",
    "*": r"\textasteriskcentered{}",
    "–": "--",
    "—": "---",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "°": r"$^\circ$",
    "µ": r"$\mu$",
    "…": r"\ldots{}",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "≠": r"$\neq$",
    "≈": r"$\approx$",
    "∞": r"$\infty$",
    "→": r"$\to$",
    "←": r"$\leftarrow$",
    "\u2018": "{`}",
    "\u2019": "{'}",
    "“": "{``}",
    "”": "{''}",
    "ß": r"\ss{}",
    "æ": r"\ae{}",
    "Æ": r"\AE{}",
    "œ": r"\oe{}",
    "Œ": r"\OE{}",
    "ø": r"\o{}",
    "Ø": r"\O{}",
    "ł": r"\l{}",
    "Ł": r"\L{}",
    "\u0131": r"\i{}",
}
"""Brackets are in braces since one after a line's end would be read as its argument, quotes since pairs are
ligatures."""
ACCENTS = {
    "\u0300": "`",
    "\u0301": "'",
    "\u0302": "^",
    "\u0303": "~",
    "\u0304": "=",
    "\u0306": "u",
    "\u0307": ".",
    "\u0308": '"',
    "\u030a": "r",
    "\u030b": "H",
    "\u030c": "v",
    "\u0323": "d",
    "\u0327": "c",
    "\u0331": "b",
}
"""Combining character -> LaTeX's command for it."""
GREEK = dict(
    zip(
        "αβγδεζηθικλμνξπρστυφχψω",
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon "
        "phi chi psi omega".split(),
        strict=True,
    )
)
"""Small Greek letters that have a command."""


@lru_cache(maxsize=1 << 14)
def escape(text: str) -> str:
    """The text as LaTeX in ASCII. A character that no command stands for is shown as its number, `U+4E2D`."""
    shown = visible(unicodedata.normalize("NFC", text))
    # two hyphens or commas in a row are a ligature: an empty group keeps them apart
    return "{}".join("".join(map(_character, part)) for part in re.split("(?<=-)(?=-)|(?<=,)(?=,)", shown))


def _character(character: str) -> str:
    if character in SPECIALS:
        return SPECIALS[character]
    if character.isascii():
        return character
    if character in GREEK:
        return rf"$\{GREEK[character]}$"
    base, *marks = tuple(unicodedata.normalize("NFD", character))
    if base.isascii() and len(marks) == 1 and marks[0] in ACCENTS:
        inner = rf"\{base}" if base in "ij" else base
        return rf"\{ACCENTS[marks[0]]}{{{inner}}}"
    return f"U+{ord(character):04X}"


def as_latex(table: Table) -> str:
    """The table, in parts if it is too wide, as what `\\input` reads; says in a comment what it needs."""
    widest = SIDEWAYS_LONG if _long(table) else SIDEWAYS
    pieces = list(_parts(table, widest))
    head = "% needs \\usepackage{booktabs,graphicx,longtable,pdflscape}\n"
    return head + "\n".join(map(_piece, pieces))


def document(title: str, names: Sequence[str]) -> str:
    """A document of the tables' files `NAME.tex` beside it, which pdflatex compiles in their folder."""
    lines = [
        r"\documentclass[10pt]{article}",
        r"\usepackage[T1]{fontenc}",
        r"\IfFileExists{lmodern.sty}{\usepackage{lmodern}}{}",
        r"\usepackage[margin=0.8in]{geometry}",
        r"\usepackage{booktabs,graphicx,longtable,pdflscape}",
        rf"\title{{{escape(title)}}}",
        r"\date{}",
        r"\begin{document}",
        r"\maketitle",
        *(rf"\input{{{name}}}\clearpage" for name in names),
        r"\end{document}",
    ]
    return "\n".join(lines) + "\n"


def _long(table: Table) -> bool:
    return len(table.rows) > MAX_ROWS


def _parts(table: Table, widest: int) -> Iterator[Table]:
    """The table, or several with the same rows whose lines have at most `widest` characters."""
    widths = _widths(table)
    keys = next((k for k, column in enumerate(table.columns) if not column.left), len(widths))
    blocks: list[list[int]] = [[]]
    for k in range(keys, len(widths)):
        if blocks[-1] and sum(widths[at] for at in (*range(keys), *blocks[-1], k)) > widest:
            blocks.append([])
        blocks[-1].append(k)
    for number, block in enumerate(blocks, 1):
        kept = [*range(keys), *block]
        yield replace(
            table.only(kept),
            name=table.name if number == 1 else f"{table.name}-{number}",
            title=table.title if len(blocks) == 1 else f"{table.title} (part {number} of {len(blocks)})",
            notes=table.notes if number == len(blocks) else "",
        )


def _widths(table: Table) -> list[int]:
    """Characters of each column with the space beside it."""
    return [
        2 + max(map(_shown, [*_title_lines(table, k), *(row.cells[k].text for row in table.rows)]))
        for k in range(len(table.columns))
    ]


@lru_cache(maxsize=1 << 14)
def _shown(text: str) -> int:
    """Characters that a reader sees of it."""
    return len(re.sub(r"\\\w+(\{\})?|\\.|[{}$]", "x", escape(text)))


def _title_lines(table: Table, k: int) -> list[str]:
    """The title of a column in lines about as wide as its cells."""
    cells = max((_shown(row.cells[k].text) for row in table.rows), default=0)
    return textwrap.wrap(table.columns[k].title, max(cells, TITLE_WIDTH), break_long_words=False) or [""]


def _piece(table: Table) -> str:
    """One float, or one table over several pages, upright or on its side."""
    width, long = sum(_widths(table)), _long(table)
    body = _over_pages(table) if long else _float(table)
    if width > (UPRIGHT_LONG if long else UPRIGHT):
        return f"\\begin{{landscape}}\n{body}\\end{{landscape}}\n"
    return body


def _float(table: Table) -> str:
    """A float that is as wide as the line at most."""
    lines = [
        r"\begin{table}[!htbp]",
        r"\centering\small",
        _caption(table) + r"\par\smallskip",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{_alignment(table)}}}",
        r"\toprule",
        _header(table),
        r"\midrule",
        *_body(table),
        r"\bottomrule",
        r"\end{tabular}}",
        *(
            [rf"\par\smallskip\parbox{{\linewidth}}{{\footnotesize {escape(table.notes)}}}"]
            if table.notes
            else []
        ),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _over_pages(table: Table) -> str:
    """A table whose header is repeated on each page."""
    head = [r"\toprule", _header(table), r"\midrule"]
    more = rf"\multicolumn{{{len(table.columns)}}}{{r@{{}}}}{{continued on the next page}} \\"
    lines = [
        r"{\scriptsize\setlength{\tabcolsep}{3pt}",
        rf"\begin{{longtable}}{{{_alignment(table)}}}",
        _caption(table) + r" \\",
        *head,
        r"\endfirsthead",
        *head,
        r"\endhead",
        r"\midrule",
        more,
        r"\endfoot",
        r"\bottomrule",
        r"\endlastfoot",
        *_body(table),
        r"\end{longtable}",
        *_notes(table, r"\noindent %s"),
        r"\par}",
    ]
    return "\n".join(lines) + "\n"


def _notes(table: Table, around: str) -> list[str]:
    return [around % escape(table.notes)] if table.notes else []


def _caption(table: Table) -> str:
    return rf"\caption{{{escape(table.title)}}}\label{{tab:{table.name}}}"


def _alignment(table: Table) -> str:
    return "@{}" + "".join("l" if column.left else "r" for column in table.columns) + "@{}"


def _header(table: Table) -> str:
    cells = []
    for k, column in enumerate(table.columns):
        lines = [escape(line) for line in _title_lines(table, k)]
        side = "l" if column.left else "r"
        stacked = r" \\ ".join(lines)
        cells.append(stacked if len(lines) == 1 else rf"\shortstack[{side}]{{{stacked}}}")
    return " & ".join(cells) + r" \\"


def _body(table: Table) -> Iterator[str]:
    """The rows, with a rule between groups."""
    before: Group | None = None
    for row in table.rows:
        if before is not None and row.group != before:
            yield r"\midrule"
        before = row.group
        yield _row(row, table.columns)


def _row(row: Row, columns: Sequence[Column]) -> str:
    cells = [_cell(cell, column) for cell, column in zip(row.cells, columns, strict=True)]
    return " & ".join(cells) + r" \\"


def _cell(cell: Cell, column: Column) -> str:
    text = escape(cell.text)
    if not column.left:
        # a hyphen is no minus sign
        text = re.sub(r"(?<!\w)([+-])(?=\d)", r"$\1$", text)
    around: dict[Mark, str] = {"": "{}", "best": r"\textbf{{{}}}", "second": r"\underline{{{}}}"}
    return around[cell.mark].format(text)
