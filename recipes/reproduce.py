"""Re-derive a published table from its own rows, and put a run of yours beside it.

    python -m recipes.reproduce mmssr_main
    python -m recipes.reproduce mmssr_main --run runs/mmssr_30pct --out table.md

Every printed mean and count is computed again from the printed scores of its row. With --run, each score that
an arm reached is shown beside the printed one with what differs, a tolerance and a verdict; without it
everything is "not run". --list names the tables.

Exit status 0 if every printed figure comes out, 1 if one does not, 2 for a wrong command or unusable files.
The verdicts on a run do not change it.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from curation.command import CommandParser, path

if TYPE_CHECKING:
    from rich.console import Console

    from recipes.published import Derived, Table
    from recipes.published_run import Cell, OwnRun, Side

DASH = "–"
ABSOLUTE = (
    "Absolute scores are shown, not compared: those of two tools, prompts or judges are not comparable. "
    "Compared is the share of the full-data score, each inside its own protocol."
)


@dataclass(frozen=True)
class Grid:
    """A table of the output: its title, its columns, and its rows of text."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


Block = str | Grid


def parser() -> argparse.ArgumentParser:
    """The parser of this command."""
    command = CommandParser(prog="python -m recipes.reproduce", description=__doc__.splitlines()[0])
    command.add_argument(
        "name",
        metavar="NAME",
        nargs="?",
        help="a shipped table, or the YAML file of your own (CSV beside it)",
    )
    command.add_argument("--run", metavar="RUN", type=path, help="run directory to put beside the table")
    command.add_argument("--out", metavar="FILE.md", type=path, help="write the result as Markdown too")
    command.add_argument("--list", action="store_true", help="list the tables")
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status as above."""
    options = parser().parse_args(arguments)
    from rich.console import Console

    from recipes.command import exit_status

    console = Console(width=None if sys.stdout.isatty() else 170, highlight=False)
    return exit_status(lambda: _run(options, console))


def _run(options: argparse.Namespace, console: "Console") -> int:
    from recipes.errors import RecipeError

    if options.list != (options.name is None) or (options.list and (options.run or options.out)):
        raise RecipeError("give the name of one table, or --list alone")
    if options.out and options.out.suffix != ".md":
        raise RecipeError(f"--out {options.out}: the result is Markdown; give a name that ends in .md")
    if options.list:
        _print([_list()], console)
        return 0
    from recipes.published import load_table, re_derive
    from recipes.published_run import read_run

    table = load_table(options.name)
    run = read_run(options.run) if options.run else None
    derived = re_derive(table) if table.rows else []
    blocks = [*_head(table), *_derived(table, derived), *_beside(table, run)]
    _print(blocks, console)
    if options.out:
        _write(blocks, options.out)
    return 0 if all(row.agrees for row in derived) else 1


def _list() -> Grid:
    """The shipped tables."""
    from recipes.published import load_table, names

    tables = [load_table(name) for name in names()]
    rows = [
        (
            table.name,
            f"arXiv {table.about.arxiv}",
            f"{len(table.rows)} rows" if table.rows else f"{len(table.claims)} figures, no rows",
            (table.scores.suite or DASH) if table.rows else DASH,
            table.about.table,
        )
        for table in tables
    ]
    return Grid("Published tables", ("name", "paper", "holds", "suite", "which table"), rows)


# ---------------------------------------------------------------------------------------------- blocks


def _head(table: "Table") -> Iterator[Block]:
    about = table.about
    yield f"{table.name}: {about.paper}, arXiv {about.arxiv}; {about.table}"
    yield f"published setting: {about.setting}"
    yield from (f"not known: {missing}" for missing in about.missing)


def _derived(table: "Table", derived: Sequence["Derived"]) -> Iterator[Block]:
    """Every printed mean and count beside the one computed from its row, and how many come out."""
    if not table.rows:
        rows = [(claim.name, claim.value, claim.unit, claim.meaning) for claim in table.claims]
        yield Grid("Printed figures", ("figure", "value", "unit", "meaning"), rows)
        yield "no row of scores is known, so nothing can be re-derived"
        return
    about = table.scores
    mean, count = about.relative.label, about.above.label if about.above else None
    columns = [
        "budget",
        "method",
        mean,
        "re-derived",
        "difference",
        *([count, "re-derived"] if count else []),
    ]
    rows = []
    for one in derived:
        counts = (_count(one.row.above), _count(one.above)) if count else ()
        printed = (_percent(one.row.budget), one.row.method, about.relative.printed(one.row.relative))
        verdict = "comes out" if one.agrees else "DOES NOT COME OUT"
        rows.append(
            (
                *printed,
                f"{one.relative:.3f}",
                f"{one.relative - one.row.relative:+.3f}",
                *counts,
                verdict,
            )
        )
    yield Grid("Re-derived from the printed scores", (*columns, "verdict"), rows)
    total = f"{sum(one.relative_agrees for one in derived)} of {len(derived)} {mean}"
    if count:
        counted = [one for one in derived if one.row.above is not None]
        total += f" and {sum(one.above_agrees for one in counted)} of {len(counted)} {count}"
    yield (
        f"{total} come out: {mean} = 100 x mean over {len(about.columns)} columns of score / full-data "
        f"score, within {about.relative.tolerance:g}"
        + (f"; {count} = columns strictly above random" if count else "")
    )


def _beside(table: "Table", run: "OwnRun | None") -> Iterator[Block]:
    """What a run reached beside the table; what was not run says so."""
    from recipes.published_run import obstacle_of

    if not table.rows:
        yield f"{run.folder}: not comparable: no row of scores of this paper is known" if run else "not run"
    elif run is None:
        yield _printed(table)
        yield f"{len(table.rows)} rows not run: --run RUN puts a run directory beside the table"
    elif obstacle := obstacle_of(table.scores, run):
        yield f"{run.folder}: not comparable: {obstacle}"
    else:
        yield from _compared(table, run)


def _compared(table: "Table", run: "OwnRun") -> Iterator[Block]:
    """The rows with their verdicts, then the columns of each row that was run."""
    from recipes.published_run import TOLERANCE, compare, unmatched

    sides = compare(table, run)
    yield _rows(table, sides, run)
    counts = Counter(side.verdict.partition(":")[0] for side in sides)
    yield f"{len(sides)} rows: {', '.join(f'{n} {verdict}' for verdict, n in counts.items())}"
    yield f"our setting: scale {run.scale or 'none'}, suite {run.suite}"
    beside = [side for side in sides if side.arm]
    if beside:
        yield _differences(table, beside[0])
    for side in beside:
        yield _cells(table, side)
        yield from (f"{side.arm}: {text}" for text in side.differs)
    if left := unmatched(table, run):
        yield f"arms beside no printed row: {', '.join(left)}"
    yield ABSOLUTE
    yield TOLERANCE


def _printed(table: "Table") -> Grid:
    """Every printed score, of which none was run."""
    from recipes.published_run import compare

    rows = [
        (
            _percent(side.row.budget),
            side.row.method,
            *(table.scores.relative.printed(cell.published) for cell in side.cells),
            side.verdict,
        )
        for side in compare(table, None)
    ]
    return Grid("Printed scores", ("budget", "method", *table.scores.columns, "ours"), rows)


def _rows(table: "Table", sides: Sequence["Side"], run: "OwnRun") -> Grid:
    about = table.scores
    mean, count = about.relative.label, about.above.label if about.above else None
    counts = (f"published {count}", "ours") if count else ()
    columns = ("budget", "method", "arm", "seeds", f"published {mean}", "ours", "difference", "tolerance")
    rows = []
    for side in sides:
        row, ours = side.row, side.relative
        cells = (_percent(row.budget), row.method, side.arm or DASH, _count(side.seeds))
        gap = None if ours is None else ours - row.relative
        values = (
            about.relative.printed(row.relative),
            _number(ours),
            _number(gap, "+.2f"),
            _number(side.tolerance),
        )
        above = (_count(row.above), _count(side.above)) if count else ()
        rows.append((*cells, *values, *above, side.verdict))
    return Grid(f"Beside {run.folder}", (*columns, *counts, "verdict"), rows)


def _differences(table: "Table", side: "Side") -> Grid:
    """What is not the same on both sides of each column; it is that of every row."""
    parts = ("n", "scale", "judge", "prompt")
    rows = [
        (table.scores.columns[cell.column].label, *(cell.differs.get(part, DASH) for part in parts))
        for cell in side.cells
    ]
    return Grid("What differs by benchmark: published, ours", ("benchmark", *parts), rows)


def _cells(table: "Table", side: "Side") -> Grid:
    """The columns of one row: scores in the printed scale, and shares of the full-data score in %."""
    columns = ("benchmark", "published", "ours", "published share", "our share", "tolerance", "verdict")
    rows = [_cell(table.scores.columns[cell.column].label, cell) for cell in side.cells]
    title = f"{side.row.method} at {_percent(side.row.budget)} beside {side.arm}"
    return Grid(title, (*columns, "differs"), rows)


def _cell(label: str, cell: "Cell") -> tuple[str, ...]:
    values = (_number(cell.ours), _number(cell.published_share), _number(cell.share), _number(cell.tolerance))
    return label, f"{cell.published:.2f}", *values, cell.verdict, ", ".join(cell.differs) or DASH


def _percent(budget: float) -> str:
    return f"{budget:g} %"


def _count(value: int | None) -> str:
    return DASH if value is None else str(value)


def _number(value: float | None, form: str = ".2f") -> str:
    return DASH if value is None else format(value, form)


# ---------------------------------------------------------------------------------------------- output


def _print(blocks: Sequence[Block], console: "Console") -> None:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    for block in blocks:
        if isinstance(block, str):
            console.print(block, markup=False, soft_wrap=True)
            continue
        grid = RichTable(title=block.title, title_justify="left", box=box.MARKDOWN)
        for column in block.columns:
            grid.add_column(column, overflow="fold")
        for row in block.rows:
            # Text: a cell may hold brackets, which rich would read as markup.
            grid.add_row(*map(Text, row), style="bold red" if "DOES NOT COME OUT" in row else "")
        console.print(grid)


def _write(blocks: Sequence[Block], file: Path) -> None:
    """The same as Markdown."""
    from curation import atomic
    from evaluation.report.table import markdown
    from recipes.errors import RecipeError

    parts = [
        block
        if isinstance(block, str)
        else f"### {block.title}\n\n{markdown(block.columns, block.rows).rstrip()}"
        for block in blocks
    ]
    text = "\n\n".join([f"## {parts[0]}", *parts[1:]])
    try:
        atomic.write_text(file, text + "\n")
    except OSError as error:
        raise RecipeError(f"--out {file} cannot be written: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main())
