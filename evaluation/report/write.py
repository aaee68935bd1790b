"""Writes all files of a report, each a function of a comparison and its context alone.

write_report(comparison, context, out)

    report.md, report.html          the report, read in a terminal or a browser
    comparison.json                 every number of it
    figures/NAME.{svg,pdf,png}      tables/NAME.{md,csv,tex}, tables/all.tex
"""

import json
from pathlib import Path

from evaluation.comparison import Comparison
from evaluation.context import Context
from evaluation.figures.draw import draw_all
from evaluation.report.latex import as_latex, document
from evaluation.report.markdown import render
from evaluation.report.page import write_page
from evaluation.report.table import as_csv, as_markdown
from evaluation.report.tables import all_tables

MAX_PRINTED = 60
"""Columns of a table that is written for reading; the overlap of many arms has one for each."""


def write_report(comparison: Comparison, context: Context, out: Path) -> Path:
    """Write every file into `out`, report.md last; returns its path."""
    out = Path(out)
    figures = draw_all(comparison, context, out)
    write_tables(comparison, context, out / "tables")
    write_page(comparison, context, out, figures)
    content = json.dumps(comparison.to_dict(), indent=1, sort_keys=True)
    _write(out / "comparison.json", content + "\n")
    path = out / "report.md"
    _write(path, render(comparison, context, [figure.name for figure in figures]))
    return path


def write_tables(comparison: Comparison, context: Context, folder: Path) -> list[str]:
    """Write each table as NAME.md, NAME.csv and NAME.tex, and all.tex; returns the names.

    A table of more columns than MAX_PRINTED is data for a program, not for a page: CSV alone.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tables = all_tables(comparison, context)
    for table in tables:
        _write(folder / f"{table.name}.csv", as_csv(table))
    printed = [table for table in tables if len(table.columns) <= MAX_PRINTED]
    for table in printed:
        _write(folder / f"{table.name}.md", f"{as_markdown(table)}\n{table.notes}\n")
        _write(folder / f"{table.name}.tex", as_latex(table))
    _write(folder / "all.tex", document(context.title, [table.name for table in printed]))
    return [table.name for table in tables]


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
