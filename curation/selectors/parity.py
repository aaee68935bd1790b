"""Published methods beside our selectors: which rule, which variant, and whether the picks are the same.

    python -m curation.selectors.parity                                  # the table, as Markdown
    python -m curation.selectors.parity --json
    python -m curation.selectors.parity --write curation/README.md       # between the marks in that file

What a method is published to pick stands in the frozen tables of a checkout (tests/parity/*.parquet, another
folder with --tables): the columns that its selector reads, and the place of each row among the picks of an
oracle, a plain function written from the published rule that shares no code with the selector. Every variant
that the selector declares (`Selector.published`) is run on them. Exit status 1 if a variant that is said to
be the published one picks other rows.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.atomic import write_text
from curation.command import CommandParser, fail, path
from curation.selectors.contract import Published, Selector, SelectorError
from curation.selectors.registry import SELECTORS, get_selector

TABLES = Path(__file__).parents[2] / "tests" / "parity"
META = b"winnow.parity"
"""Key of a frozen table's metadata: JSON with selector, params, budget and seed."""
BEGIN, END = "<!-- parity: generated -->", "<!-- /parity -->"
HEAD = ("method", "published rule", "variant", "picks", "source")


class ParityError(ValueError):
    """A frozen table that is none, or a file without the marks."""


@dataclass(frozen=True)
class Frozen:
    """A frozen table: the columns a selector reads, and `picks`, the published picks in their order."""

    method: str
    selector: str
    params: Mapping[str, Any]
    seed: int
    columns: pa.Table
    picks: list[int]


@dataclass(frozen=True)
class Compared:
    """One variant of a method beside its published picks; a row of the table.

    jaccard: of the two sets of picks, None without a frozen table. in_order: they are the same in order too.
    differs: what the variant does otherwise than the published one. error: why it could not be run.
    """

    method: str
    selector: str
    variant: str
    rule: str
    source: str
    first: bool
    jaccard: float | None = None
    in_order: bool = False
    differs: str = ""
    error: str = ""

    @property
    def equal(self) -> bool:
        """Whether the same rows are picked."""
        return self.jaccard == 1.0

    @property
    def wrong(self) -> bool:
        """Whether this is said to be the published method, and picks other rows or none."""
        return self.first and (bool(self.error) or (self.jaccard is not None and not self.equal))

    def picks(self) -> str:
        """The result in words."""
        if self.error:
            return f"cannot be run: {self.error}"
        if self.jaccard is None:
            return "not measured"
        if self.equal:
            return "equal, in order" if self.in_order else "equal"
        return f"differs (J = {self.jaccard:.2f})"

    def cells(self) -> tuple[str, ...]:
        """Its row of the table; of further variants only what they do otherwise."""
        if self.first:
            return f"`{self.method}`", self.rule, self.variant, self.picks(), self.source
        return "", self.differs, self.variant, self.picks(), ""


def read_frozen(file: Path) -> Frozen:
    """The frozen table in `file`. Raises ParityError."""
    table = pq.read_table(file)
    held = (table.schema.metadata or {}).get(META)
    if held is None or "published" not in table.column_names:
        raise ParityError(f"{file} is no frozen table: write it with python tests/parity/freeze.py")
    meta = json.loads(held)
    picks = table.filter(pc.is_valid(table["published"])).sort_by("published")["row"].to_pylist()
    columns = table.drop_columns(["published"])
    return Frozen(file.stem, meta["selector"], meta["params"], meta["seed"], columns, picks)


def compare_all(tables: Path) -> list[Compared]:
    """Every variant of every selector that declares a published method, in the order of the registry.

    tables: folder of frozen tables; a method may have several, and one without any is not measured. A table
    of a selector that declares no published method is a row with an error. Raises ParityError for a folder
    without frozen tables.
    """
    frozen = [read_frozen(file) for file in sorted(tables.glob("*.parquet"))]
    if not frozen:
        raise ParityError(f"{tables} holds no frozen table (*.parquet); name their folder with --tables")
    found: list[Compared] = []
    for name in SELECTORS:
        published = Selector.of(get_selector(name)).published
        mine = [one for one in frozen if one.selector == name]
        if published is not None:
            for table in (*mine,) or (None,):
                found += _variants(name, published, table)
            frozen = [one for one in frozen if one.selector != name]
    return found + [_undeclared(one) for one in frozen]


def _undeclared(frozen: Frozen) -> Compared:
    error = f"the selector {frozen.selector!r} declares no published method"
    return Compared(frozen.method, frozen.selector, "", "", "", first=True, error=error)


def _variants(name: str, published: Published, frozen: Frozen | None) -> Iterable[Compared]:
    for place, (variant, params) in enumerate(published.variants.items()):
        about = Compared(
            method=frozen.method if frozen else name,
            selector=name,
            variant=variant,
            rule=published.rule,
            source=published.source,
            first=place == 0,
            differs=published.differs.get(variant, ""),
        )
        yield _measured(about, frozen, params) if frozen else about


def _measured(about: Compared, frozen: Frozen, params: Mapping[str, Any]) -> Compared:
    select, count = get_selector(frozen.selector), len(frozen.picks)
    try:
        selection = select(frozen.columns, count, frozen.seed, **{**frozen.params, **params})
    except SelectorError as error:
        return replace(about, error=str(error))
    rows = selection.rows.tolist()
    ours, theirs = set(rows), set(frozen.picks)
    jaccard = len(ours & theirs) / len(ours | theirs)
    return replace(about, jaccard=jaccard, in_order=rows == frozen.picks)


def markdown(rows: Iterable[Compared]) -> str:
    """The table, its lines joined."""
    lines = [HEAD, (":--",) * len(HEAD), *(row.cells() for row in rows)]
    return "\n".join(_line(cells) for cells in lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(_cell(cell) for cell in cells)} |".replace("|  |", "| |")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def written_into(text: str, table: str) -> str:
    """`text` with the table between its marks. Raises ParityError unless both marks are there, once."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after or END in after:
        raise ParityError(f"the file needs the lines {BEGIN} and {END}, once each")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; exit status 1 if a published variant picks other rows, 2 for what cannot be read."""
    options = _parser().parse_args(arguments)
    try:
        rows = compare_all(options.tables)
        if options.write:
            write_text(options.write, written_into(options.write.read_text("utf-8"), markdown(rows)))
    except (ParityError, OSError, pa.ArrowInvalid) as error:
        return fail(error, 2)
    if not options.write:
        print(json.dumps([asdict(row) for row in rows], indent=1) if options.json else markdown(rows))
    wrong = [row for row in rows if row.wrong]
    for row in wrong:
        print(f"{row.method}: {row.variant}: {row.picks()}", file=sys.stderr)
    return 1 if wrong else 0


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m curation.selectors.parity", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--tables", type=path, default=TABLES, metavar="DIR", help="folder of frozen tables (*.parquet)"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument(
        "--write", type=path, metavar="FILE", help=f"put the table into FILE, between {BEGIN} and {END}"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
