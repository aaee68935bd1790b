"""Published tables as data: `reference/NAME.yaml` describes one table of one paper, NAME.csv holds it.

    table = load_table("mmssr_main")
    checks = re_derive(table)       # every printed /FULL and >Rand, computed again from its row

A table of scores lists its columns, methods and budgets; the CSV must hold exactly these rows, so that a row
of another paper is refused. A table of claims holds the single figures of a paper whose scores are not known.
"""

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from recipes.document import Document, read_yaml
from recipes.errors import RecipeError, nearest
from recipes.schema.base import Section

REFERENCE = Path(__file__).parent / "reference"
WHOLE = 100.0
"""Budget, in % of the pool, of the row that the others are divided by."""


class Paper(Section):
    """What every published table says about itself."""

    paper: str
    arxiv: str
    table: str = Field(description="which table of the paper, and where it was read")
    setting: str = Field(description="model, training and pool")
    missing: list[str] = Field([], description="figures that are not known, in words")


class Column(Section):
    """One benchmark. `benchmark`: its name in our suite; `n`: questions behind a printed score, if known."""

    label: str
    benchmark: str | None = None
    n: int | None = Field(None, ge=1)
    scale: float = Field(100.0, gt=0, description="highest possible score")
    judge: str | None = Field(None, description="where it differs from the table's")


class Method(Section):
    """Which of our arms is this row: the selector, with parameters that must be set; or `why` none is."""

    selector: str | None = None
    params: dict[str, Any] = Field({}, description="parameters that the arm must set")
    why: str | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.selector is None) == (self.why is None):
            raise ValueError("give either `selector` or, where no arm of ours can be this row, `why`")
        return self


class Printed(Section):
    """A column that the paper computed from the others: its name in the CSV and its heading."""

    column: str
    label: str


class Relative(Printed):
    """The mean of score / full-data score in %.

    `tolerance`: what the rounding of the printed digits allows, one unit of the last one: half of it for the
    printed mean itself, half for the scores that it is computed from.
    """

    tolerance: Annotated[float, Field(gt=0)]

    def printed(self, value: float) -> str:
        """A mean with the digits that the paper prints."""
        return f"{value:.{max(0, -math.floor(math.log10(self.tolerance)))}f}"


class Scores(Paper):
    """The description of a table of scores."""

    kind: Literal["scores"]
    suite: str | None = Field(None, description="our suite with the table's editions of its benchmarks")
    prompt: str = Field(description="what the paper says about tools and prompts")
    judge: str
    relative: Relative
    above: Printed | None = None
    columns: dict[str, Column] = Field(min_length=1)
    budgets: list[Annotated[float, Field(gt=0, lt=WHOLE)]] = Field(min_length=1)
    full: str = Field(description="method of the row on the whole pool")
    random: str = Field(description="method of the random rows, one for each budget")
    methods: dict[str, Method]

    @model_validator(mode="after")
    def _known_roles(self) -> Self:
        for role in (self.full, self.random):
            if role not in self.methods:
                raise ValueError(f"methods: {role} is missing; {nearest(role, self.methods)}")
        return self

    def keys(self) -> set[tuple[float, str]]:
        """(budget, method) of every row of the table."""
        parts = [method for method in self.methods if method != self.full]
        return {(WHOLE, self.full)} | {(budget, method) for budget in self.budgets for method in parts}


class Claims(Paper):
    """The description of a table of single figures."""

    kind: Literal["claims"]


@dataclass(frozen=True)
class Row:
    """One printed row: scores by column, the printed relative score, and >Rand where it is printed."""

    budget: float
    method: str
    scores: dict[str, float]
    relative: float
    above: int | None


@dataclass(frozen=True)
class Claim:
    """One printed figure; `value` as it is printed."""

    name: str
    value: str
    unit: str
    meaning: str


@dataclass(frozen=True)
class Table:
    """A published table: its description, and its rows (of scores) or claims in printed order."""

    name: str
    about: Scores | Claims
    rows: tuple[Row, ...] = ()
    claims: tuple[Claim, ...] = ()

    @property
    def scores(self) -> Scores:
        """The description of a table of scores. Raises TypeError for claims."""
        if not isinstance(self.about, Scores):
            raise TypeError(f"{self.name} has no scores")
        return self.about

    def row(self, budget: float, method: str) -> Row:
        """The row of a budget and method. Raises StopIteration if there is none."""
        return next(row for row in self.rows if (row.budget, row.method) == (budget, method))

    @property
    def full(self) -> Row:
        """The row on the whole pool."""
        return self.row(WHOLE, self.scores.full)


# --------------------------------------------------------------------------------------------- reading


def names() -> list[str]:
    """The shipped tables."""
    return sorted(file.stem for file in REFERENCE.glob("*.yaml"))


def load_table(name: str) -> Table:
    """A shipped table by name, or one of your own by the path of its YAML file, with its CSV beside it.

    Raises RecipeError, which names file and line, for an unknown name and for files that do not agree.
    """
    from recipes.load import validate

    file = Path(name) if name.endswith((".yaml", ".yml")) else REFERENCE / f"{name}.yaml"
    if file.parent == REFERENCE and name not in names():
        raise RecipeError(f"unknown table `{name}`; {nearest(name, names())}")
    document = read_yaml(file)
    kinds: dict[Any, type[Paper]] = {"scores": Scores, "claims": Claims}
    kind = document.data.get("kind")
    if kind not in kinds:
        raise RecipeError(f"{document.locate(('kind',))}: kind: must be scores or claims, got {kind!r}")
    about = validate(kinds[kind], document)
    lines = _lines(file.with_suffix(".csv"), document)
    if isinstance(about, Claims):
        return Table(file.stem, about, claims=tuple(_claims(lines)))
    return Table(file.stem, about, rows=_rows(lines, about))


@dataclass(frozen=True)
class _Line:
    """A line of a CSV: where it stands, and its cells by column."""

    where: str
    cells: dict[str, str]

    def number(self, column: str, low: float, high: float) -> float:
        """The number of a cell; RecipeError unless it is within low..high."""
        try:
            value = float(self.cells[column])
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise RecipeError(
                f"{self.where}: {column}: {self.cells[column]!r} must be a number from {low:g} to {high:g}"
            )
        return value


def _lines(file: Path, document: Document) -> list[_Line]:
    """All lines of the CSV. Raises RecipeError for a file that cannot be read, or a line of another width."""
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            header, *lines = csv.reader(stream)
    except OSError as error:
        raise RecipeError(f"{file}: {error.strerror}; {document.locate(('kind',))} describes it") from error
    except (ValueError, csv.Error) as error:  # not UTF-8, or no line at all
        raise RecipeError(f"{file}: not a CSV with a header: {error}") from error
    read = []
    for at, cells in enumerate(lines, start=2):
        if len(cells) != len(header):
            raise RecipeError(f"{file}:{at}: {len(cells)} cells under a header of {len(header)}")
        read.append(_Line(f"{file}:{at}", dict(zip(header, cells, strict=True))))
    if not read:
        raise RecipeError(f"{file}: no rows under the header")
    return read


def _claims(lines: list[_Line]) -> list[Claim]:
    _check_header(lines[0], ["claim", "value", "unit", "meaning"])
    return [Claim(*line.cells.values()) for line in lines]


def _rows(lines: list[_Line], about: Scores) -> tuple[Row, ...]:
    """The rows of a table of scores. Raises RecipeError unless they are those that the YAML describes."""
    computed = [about.above.column] if about.above else []
    _check_header(lines[0], ["budget", "method", *about.columns, *computed, about.relative.column])
    rows: dict[tuple[float, str], Row] = {}
    for line in lines:
        key = line.number("budget", 0, WHOLE), line.cells["method"]
        if key not in about.keys() or key in rows:
            problem = "there already" if key in rows else f"not of the table of arXiv {about.arxiv}"
            raise RecipeError(
                f"{line.where}: the row {key[1]} at {key[0]:g} % is {problem}; rows of different papers are "
                "never mixed: give the other paper a table of its own"
            )
        rows[key] = Row(
            *key,
            {name: line.number(name, 0, column.scale) for name, column in about.columns.items()},
            line.number(about.relative.column, 0, float("inf")),
            _above(line, about, key[1]),
        )
    if lacking := sorted(about.keys() - rows.keys()):
        budget, method = lacking[0]
        raise RecipeError(f"{lines[-1].where}: the row {method} at {budget:g} % is missing")
    _check_full(rows[WHOLE, about.full], lines[0].where)
    return tuple(rows.values())


def _check_header(line: _Line, expected: list[str]) -> None:
    """RecipeError unless these are the columns; order matters, because it is that of the printed table."""
    if list(line.cells) != expected:
        where = line.where.rpartition(":")[0]
        raise RecipeError(f"{where}:1: the header must be {','.join(expected)}")


def _check_full(full: Row, where: str) -> None:
    """RecipeError if the row that all others are divided by has a score of 0."""
    if zero := [name for name, score in full.scores.items() if score == 0]:
        raise RecipeError(f"{where}: {zero[0]}: the full-data score is 0, nothing can be divided by it")


def _above(line: _Line, about: Scores, method: str) -> int | None:
    """The printed >Rand; the full and the random rows have none."""
    if about.above is None or method in (about.full, about.random):
        return None
    count = line.number(about.above.column, 0, len(about.columns))
    if not count.is_integer():
        raise RecipeError(f"{line.where}: {about.above.column}: {count:g} must be a whole number")
    return int(count)


# ----------------------------------------------------------------------------------------- re-deriving


@dataclass(frozen=True)
class Derived:
    """A row with its relative score and >Rand as computed from its scores; `tolerance` in points."""

    row: Row
    relative: float
    above: int | None
    tolerance: float

    @property
    def relative_agrees(self) -> bool:
        # The last digit of a difference of two decimal numbers is not exact in binary.
        return abs(self.relative - self.row.relative) <= self.tolerance + 1e-9

    @property
    def above_agrees(self) -> bool:
        return self.above == self.row.above

    @property
    def agrees(self) -> bool:
        return self.relative_agrees and self.above_agrees


def re_derive(table: Table) -> list[Derived]:
    """Every row of a table of scores, with the formulas that reports use (`evaluation.aggregate`).

    The relative score is 100 * mean over all columns of score / full-data score, each column in its own
    scale; >Rand counts the columns strictly above the random row of the same budget.
    """
    from evaluation.aggregate import count_above, relative_to_reference

    about, full = table.scores, list(table.full.scores.values())
    derived = []
    for row in table.rows:
        scores, above = list(row.scores.values()), None
        if row.above is not None:
            above = count_above(scores, list(table.row(row.budget, about.random).scores.values()))
        relative = relative_to_reference(scores, full)
        assert relative is not None  # no full-data score is 0: checked on reading
        derived.append(Derived(row, relative, above, about.relative.tolerance))
    return derived
