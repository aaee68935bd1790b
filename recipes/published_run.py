"""A published table beside a run of ours: every printed score, our score, what differs, and a verdict.

    run = read_run(Path("runs/mmssr_30pct.llava_ov_7b_si"))
    sides = compare(load_table("mmssr_main"), run)

Only shares of the full-data score are compared, each inside its own protocol: absolute scores of two tools
are not comparable. Everything of ours is read from the files of the run directory.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from recipes.errors import RecipeError
from recipes.published import WHOLE, Column, Method, Row, Scores, Table

Z = 1.96
"""Standard errors in a tolerance: 95 % of the normal distribution."""
WITHIN, OUTSIDE, NOT_RUN = "within tolerance", "outside", "not run"
TOLERANCE = (
    "Tolerance: 1.96 standard errors of the difference between two shares of the full-data score. Each "
    "of the four scores has the binomial error of its number of questions, which is rough for sums over "
    "pairs (MME). The four are taken as independent, which is wide: a row and its full-data row answer "
    "the same questions. To the variance of ours comes that of the arm's seeds / seeds; to the printed "
    "score the same variance once, as to a single run. Of many comparisons, about 5 % fall outside by "
    "chance."
)
PERCENT = (1.0, 100.0)
"""Scales that differ only in whether they are written in %; any other scale is of a score of its own."""


# ------------------------------------------------------------------------------------------ a run of ours


@dataclass(frozen=True)
class OwnArm:
    """An arm of the recipe; `percent` is its budget in % of the pool, None for a number of samples."""

    name: str
    selector: str
    percent: float | None
    params: dict[str, Any]
    learned: bool


@dataclass(frozen=True)
class OwnRun:
    """The files of a run directory: comparison.json, and what recipe.yaml and lineage.json say about it."""

    folder: Path
    comparison: dict[str, Any]
    scale: str | None
    modified: tuple[str, ...]
    arms: tuple[OwnArm, ...]

    @property
    def suite(self) -> str:
        return self.comparison["protocol"]["suite"]

    @cached_property
    def benchmarks(self) -> dict[str, dict[str, Any]]:
        """The entries of the suite by name; results of earlier versions have no names."""
        entries = self.comparison["suite"]["benchmarks"]
        return {entry["name"]: entry for entry in entries if "name" in entry}

    @cached_property
    def results(self) -> dict[str, dict[str, Any]]:
        """The results of each arm by its name."""
        return {arm["arm"]: arm for arm in self.comparison["arms"]}

    @property
    def full(self) -> dict[str, Any] | None:
        """The results of the arm trained on the full data."""
        return self.results.get(self.comparison["full_arm"])


def read_run(folder: Path) -> OwnRun:
    """A run directory. Raises RecipeError where it does not exist or a file of it cannot be used."""
    from recipes.document import read_yaml
    from recipes.finished import NoResults, read_json

    if not folder.is_dir():
        raise RecipeError(f"{folder} does not exist; run a recipe first, which makes runs/NAME")
    files = {name: folder / name for name in ("comparison.json", "lineage.json", "recipe.yaml")}
    if not files["comparison.json"].is_file():
        raise RecipeError(f"{files['comparison.json']} does not exist; run the recipe to its report first")
    try:
        comparison, lineage = read_json(files["comparison.json"]), read_json(files["lineage.json"])
    except NoResults as error:
        raise RecipeError(str(error)) from error
    # Shipped results have no recipe.yaml: then no arm can be told, and every row is not comparable.
    recipe = read_yaml(files["recipe.yaml"]).data if files["recipe.yaml"].is_file() else {}
    try:
        arms = tuple(_own_arm(name, arm) for name, arm in recipe.get("arms", {}).items())
        run = OwnRun(folder, comparison, lineage["scale"], tuple(lineage["modified"]), arms)
        _ = run.suite, run.benchmarks, run.results, run.full, comparison["n"]  # all that is read later
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RecipeError(
            f"{folder}: not the files of a finished run ({type(error).__name__}: {error}); run its recipe "
            "again"
        ) from error
    return run


def _own_arm(name: str, arm: Mapping[str, Any]) -> OwnArm:
    """An arm of a resolved recipe.yaml."""
    budget = str(arm["budget"])
    percent = float(budget.removesuffix("%")) if budget.endswith("%") else None
    learned = arm.get("signals", "learned") == "learned"
    return OwnArm(name, arm["selector"], percent, arm.get("params") or {}, learned)


# ---------------------------------------------------------------------------------------------- results


@dataclass(frozen=True)
class Cell:
    """One printed score beside ours, in the printed scale; shares of the full-data score in %.

    Of a column that is not comparable, what is not known is None. `differs`: what is not the same on both
    sides (n, scale, judge, prompt), in words. `variance`: of the difference of the shares, by the questions
    alone.
    """

    column: str
    published: float
    published_share: float
    verdict: str
    ours: float | None = None
    share: float | None = None
    tolerance: float | None = None
    variance: float = 0.0
    differs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Side:
    """One printed row beside an arm of ours. Without an arm all cells have the row's own verdict.

    `relative` is our mean share over all columns, `above` our >Rand; None where they are not known.
    """

    row: Row
    verdict: str
    cells: tuple[Cell, ...]
    arm: str | None = None
    seeds: int | None = None
    relative: float | None = None
    above: int | None = None
    tolerance: float | None = None
    differs: tuple[str, ...] = ()


def compare(table: Table, run: OwnRun | None) -> list[Side]:
    """Every printed row of a table of scores, with a verdict; without a run all are "not run"."""
    if run is None:
        return [_bare(table, row, NOT_RUN) for row in table.rows]
    if obstacle := obstacle_of(table.scores, run):
        return [_bare(table, row, f"not comparable: {obstacle}") for row in table.rows]
    return [_side(table, row, run) for row in table.rows]


def obstacle_of(about: Scores, run: OwnRun) -> str | None:
    """Why nothing of a run can be put beside a table; None where something can."""
    if about.suite is None:
        return f"suite {run.suite}; no suite here has the editions of this table's benchmarks"
    if run.suite != about.suite:
        return f"suite {run.suite}; this table's editions of the benchmarks are in suite {about.suite}"
    if run.modified:
        return f"protocol: modified ({', '.join(run.modified)})"
    if limit := run.comparison["protocol"].get("limit"):
        return f"only the first {limit} questions of each benchmark were asked"
    if run.full is None:
        return "no arm on the full data, so there is no share of its score"
    if not run.arms:
        return f"{run.folder} has no recipe.yaml, which says what its arms are"
    return None


def unmatched(table: Table, run: OwnRun) -> list[str]:
    """The arms of a run that are beside no printed row."""
    used = {name for row in table.rows for name in _arms_of(table.scores, row, run)}
    return [arm.name for arm in run.arms if arm.name not in used]


def _bare(table: Table, row: Row, verdict: str) -> Side:
    """A row without an arm of ours."""
    shares = _shares(row.scores, table.full.scores)
    cells = [Cell(name, row.scores[name], shares[name], verdict) for name in row.scores]
    return Side(row, verdict, tuple(cells))


def _shares(scores: Mapping[str, float], full: Mapping[str, float]) -> dict[str, float]:
    """Scores in % of the full-data scores."""
    return {name: 100 * score / full[name] for name, score in scores.items()}


def _arms_of(about: Scores, row: Row, run: OwnRun) -> list[str]:
    """The arms of the run that are a row: its selector at its budget, with the parameters it must have."""
    method = about.methods[row.method]
    return [arm.name for arm in run.arms if arm.name in run.results and _is(arm, method, row.budget)]


def _is(arm: OwnArm, method: Method, budget: float) -> bool:
    same_budget = arm.percent is not None and math.isclose(arm.percent, budget)
    same_params = method.params.items() <= arm.params.items()
    return arm.learned and arm.selector == method.selector and same_budget and same_params


def _side(table: Table, row: Row, run: OwnRun) -> Side:
    """A row beside the one arm that is it."""
    about = table.scores
    method, names = about.methods[row.method], _arms_of(about, row, run)
    if method.why is not None:
        return _bare(table, row, f"not comparable: {method.why}")
    if len(names) > 1:
        return _bare(table, row, f"not comparable: {' and '.join(names)} are both this row")
    if not names:
        return _bare(table, row, NOT_RUN)
    arm = next(arm for arm in run.arms if arm.name == names[0])
    result = run.results[arm.name]
    cells = tuple(_cell(table, row, run, result, name, column) for name, column in about.columns.items())
    extra = {key: value for key, value in arm.params.items() if key not in method.params}
    differs = [f"ours sets {key}={value}" for key, value in extra.items()]
    if result["units"] == 1:
        differs.append("one seed of ours: its spread is not in the tolerance")
    known = {"arm": arm.name, "seeds": result["units"], "differs": tuple(differs)}
    if obstacle := _obstacle_of_row(row, cells):
        return Side(row, f"not comparable: {obstacle}", cells, **known)
    relative = sum(cell.share for cell in cells if cell.share is not None) / len(cells)
    tolerance = _relative_tolerance(cells, result, run)
    verdict = _verdict(relative - row.relative, tolerance)
    return Side(row, verdict, cells, relative=relative, above=result["above"], tolerance=tolerance, **known)


def _obstacle_of_row(row: Row, cells: Sequence[Cell]) -> str | None:
    """Why a row has no relative score to compare."""
    if row.budget == WHOLE:
        return "what both sides are divided by"
    lacking = [cell.column for cell in cells if cell.share is None]
    return f"{', '.join(lacking)} cannot be compared" if lacking else None


def _relative_tolerance(cells: Sequence[Cell], result: Mapping[str, Any], run: OwnRun) -> float:
    """Of a mean over columns: errors of questions are independent, those of seeds are the means' own."""
    questions = sum(cell.variance for cell in cells) / len(cells) ** 2
    seeds = sum(_of_seeds(arm["full_std"], arm["units"]) for arm in (result, run.full) if arm)
    return Z * math.sqrt(questions + seeds)


def _verdict(difference: float, tolerance: float) -> str:
    return WITHIN if abs(difference) <= tolerance else OUTSIDE


# ------------------------------------------------------------------------------------------------ cells


@dataclass(frozen=True)
class _Share:
    """A score and its full-data score, both as fractions of the scale, over n questions."""

    score: float
    full: float
    n: int

    @property
    def percent(self) -> float:
        return 100 * self.score / self.full

    @property
    def variance(self) -> float:
        """Binomial variance of `percent`, to the first order in the errors of both scores."""
        return self.propagated(*(p * (1 - p) / self.n for p in (self.score, self.full)))

    def propagated(self, of_score: float, of_full: float) -> float:
        """The variance of `percent` by those of both scores."""
        return 100**2 * (of_score + (self.score / self.full) ** 2 * of_full) / self.full**2


def _cell(table: Table, row: Row, run: OwnRun, result: Mapping[str, Any], name: str, column: Column) -> Cell:
    """One printed score beside that of an arm."""
    printed, full = row.scores[name], table.full.scores[name]
    share = 100 * printed / full
    entry = run.benchmarks.get(column.benchmark or "")
    if entry is None or run.full is None:
        return Cell(name, printed, share, f"not comparable: suite {run.suite} has no {column.label}")
    key, scale = column.benchmark, float(entry["scale"])
    if column.scale != scale and not {column.scale, scale} <= set(PERCENT):
        return Cell(name, printed, share, f"not comparable: scale {column.scale:g}, ours {scale:g}")
    own, own_full = (arm["benchmarks"][key] for arm in (result, run.full))
    n = run.comparison["n"][key]
    differs = dict(_differences(table.scores, column, entry, n))
    ours = {"ours": own["mean"] * column.scale / scale, "differs": differs}
    if own_full["mean"] <= 0:
        return Cell(name, printed, share, "not comparable: our full-data score is 0", **ours)
    theirs = _Share(printed / column.scale, full / column.scale, column.n or n)
    mine = _Share(own["mean"] / scale, own_full["mean"] / scale, n)
    seeds = mine.propagated(
        *(_of_seeds(arm["benchmarks"][key]["std"], arm["units"]) / scale**2 for arm in (result, run.full))
    )
    variance = theirs.variance + mine.variance
    tolerance = Z * math.sqrt(variance + seeds)
    # The full-data row is 100 % on both sides by definition: that is no agreement.
    by_definition = row.budget == WHOLE
    verdict = _verdict(mine.percent - share, tolerance)
    return Cell(
        name,
        printed,
        share,
        "not comparable: what both sides are divided by" if by_definition else verdict,
        share=mine.percent,
        tolerance=None if by_definition else tolerance,
        variance=variance,
        **ours,
    )


def _of_seeds(std: float | None, seeds: int) -> float:
    """Variance by seeds of the difference between our mean over `seeds` runs and a single printed run."""
    return 0.0 if std is None else std**2 * (1 + 1 / seeds)


def _differences(
    about: Scores, column: Column, entry: Mapping[str, Any], n: int
) -> Iterator[tuple[str, str]]:
    """What is not the same on both sides of a column, or not known to be: (what, in words)."""
    if column.n is None:
        yield "n", f"not printed, ours {n}"
    elif column.n != n:
        yield "n", f"{column.n}, ours {n}"
    if column.scale != float(entry["scale"]):
        yield "scale", f"{column.scale:g}, ours {float(entry['scale']):g} (converted)"
    judge = entry.get("judge")
    yield "judge", f"{column.judge or about.judge}, ours {judge['prompt'] if judge else 'rules'}"
    deviations = entry.get("deviations") or ()
    yield "prompt", f"{about.prompt}, ours " + ("; ".join(deviations) or "as in lmms-eval")
