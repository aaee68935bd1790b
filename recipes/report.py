"""Print the results of a finished recipe, or the gates of a built-in world.

The gates are criteria on the base model and the training regime, fixed before any selector was tried.

    python -m recipes.report mini_regime
    python -m recipes.report mini_regime --power              # what more pools or seeds would find
    python -m recipes.report results/mini_regime --out again  # every table and picture, from three files
    python -m recipes.report --gates mini

With --out, everything is made again from scores.parquet, questions.parquet and experiment.json alone: a run,
a shipped folder, or a copy of these three files on another machine give the same bytes. A sweep's folder has
one such folder for each cell.

Exit status 0 if every gate passes, 1 if a gate fails or the results are stale or partial, 2 if there are
none.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation.command import CommandParser
from recipes.finished import (
    RECIPES,
    NoResults,
    find_results,
    folder_results,
    read_json,
    rebuilt,
    run_command,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from evaluation.regime import Verdict
    from recipes.finished import Results

OTHER_CAPTIONS = 1
"""Seed of the captions on which the base is measured again; the committed values are of seed 0."""


@dataclass(frozen=True)
class World:
    """A built-in world: the recipe whose comparison its regime is judged by, and its base model."""

    recipe: str
    base: str


WORLDS = {"mini": World("mini_regime", "builtin:mini")}


def parser() -> argparse.ArgumentParser:
    """The parser of this command."""
    command = CommandParser(prog="python -m recipes.report", description=__doc__.splitlines()[0])
    command.add_argument(
        "words",
        metavar="NAME | key=value",
        nargs="*",
        help="recipe, run directory or folder of results; overrides as they were given to recipes.run, such "
        "as root=DIR",
    )
    command.add_argument(
        "--out", metavar="DIR", type=Path, help="write report, tables and figures of the results into DIR"
    )
    command.add_argument(
        "--power",
        action="store_true",
        help="print the smallest difference that other numbers of pools and seeds would find",
    )
    command.add_argument(
        "--gates",
        metavar="WORLD",
        nargs="?",
        const="",
        help="print a world's gates; without WORLD: list the worlds",
    )
    command.add_argument(
        "--items",
        metavar="N",
        type=int,
        default=100,
        help="held-out captions on which each gate of the base is measured again (default 100); 0: print the "
        "committed values only",
    )
    return command


def main(arguments: Sequence[str] | None = None, package: str = "recipes.stages") -> int:
    """Exit status as above, 2 also for a wrong command. `package` contains the stage modules."""
    options = parser().parse_intermixed_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from rich.console import Console

    from evaluation.results import ResultsError
    from recipes.errors import RecipeError

    console = Console(width=None if sys.stdout.isatty() else 170, highlight=False)
    try:
        return _run(options, package, console)
    except (RecipeError, NoResults, ResultsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace, package: str, console: "Console") -> int:
    from recipes.errors import RecipeError, nearest

    overrides = [word for word in options.words if "=" in word]
    names = [word for word in options.words if "=" not in word]
    if options.gates == "":
        for name, world in WORLDS.items():
            console.print(f"{name}: regime {world.recipe}.yaml, base {world.base}")
        return 0
    if len(names) != (options.gates is None) or options.items < 0:
        raise RecipeError("give the name of one recipe, or --gates WORLD [--items N] with N >= 0")
    if options.gates is None:
        return print_results(names[0], overrides, options, package, console)
    if options.out or options.power:
        raise RecipeError("--out and --power are about the results of a recipe, not about gates")
    if options.gates not in WORLDS:
        raise RecipeError(f"unknown world `{options.gates}`; {nearest(options.gates, WORLDS)}")
    return print_gates(WORLDS[options.gates], overrides, options.items, package, console)


def _print_origin(results: "Results", file: str, overrides: Sequence[str], console: "Console") -> None:
    for line in results.origin(run_command(file, overrides)):
        console.print(line, markup=False, soft_wrap=True)


# ---------------------------------------------------------------------------------------------- findings


def print_results(
    name: str, overrides: Sequence[str], options: argparse.Namespace, package: str, console: "Console"
) -> int:
    """Print what is found of each arm of a finished run and where its report is; make it again for --out."""
    if (Path(name) / "sweep.json").is_file():
        return print_sweep(Path(name), options, console)
    if Path(name).is_dir() and not (Path(name) / "recipe.yaml").is_file():
        results = folder_results(Path(name), options.out)
        console.print(f"results: {name}, without their recipe", markup=False, soft_wrap=True)
    else:
        file = str(Path(name) / "recipe.yaml") if Path(name).is_dir() else name
        results = find_results(file, overrides, package)
        _print_origin(results, file, overrides, console)
        if options.out:
            results = replace(results, comparison=rebuilt(results.folder, options.out))
    for arm in results.comparison["arms"]:
        console.print(_finding(arm), markup=False, soft_wrap=True)
    if options.power:
        from recipes.power import power_lines

        for line in power_lines(results.comparison):
            console.print(line)
    console.print(f"report: {(options.out or results.folder) / 'report.md'}", markup=False, soft_wrap=True)
    return 1 if results.flaw else 0


def print_sweep(folder: Path, options: argparse.Namespace, console: "Console") -> int:
    """Print what is found of each cell and arm of a sweep, all differences as one family."""
    from recipes.errors import RecipeError
    from recipes.sweep_results import read
    from recipes.sweep_table import rebuild

    if options.power:
        raise RecipeError(f"{folder} is a sweep; --power is about one comparison, such as that of a cell")
    for cell in read(folder).cells:
        lines = [_finding(arm) for arm in cell.comparison["arms"]] if cell.comparison else [cell.state]
        for line in lines:
            console.print(f"{cell.name}: {line}", markup=False, soft_wrap=True)
    table = rebuild(folder, options.out) if options.out else folder / "sweep.md"
    console.print(f"table: {table}", markup=False, soft_wrap=True)
    return 0


def _finding(arm: dict[str, Any]) -> str:
    """One arm in a line: mean ± standard deviation, seeds, difference to the baseline and what it allows."""
    mean, std, difference = arm["mean"]["mean"], arm["mean"]["std"], arm["difference"]
    spread = "" if std is None else f" ± {std:.2f}"
    against = ""
    if difference:
        against = (
            f", {difference['value']:+.2f}{_interval(difference)} to {arm['baseline'] or 'the baseline'}"
        )
        against += _claimed(arm.get("claim"))
    return f"{arm['arm']} {arm['budget']}: mean {mean:.2f}{spread} % (seeds: {arm['units']}){against}"


def _interval(difference: dict[str, Any]) -> str:
    """The interval that holds for all arms at once, or this arm's own; empty where none is known."""
    for low, high in (("corrected_low", "corrected_high"), ("low", "high")):
        if difference.get(low) is not None:
            return f" [{difference[low]:+.2f}, {difference[high]:+.2f}]"
    return ""


def _claimed(claim: dict[str, Any] | None) -> str:
    """The verdict with its scope, or why there is none; results of earlier versions have no claims."""
    if not claim:
        return ""
    if claim["verdict"] is None:
        return f": no verdict ({claim['reason']})"
    margin = f" within {claim['margin']:g} points" if claim["verdict"] == "equivalent" else ""
    return f": {claim['verdict']}{margin} {claim['scope']}"


# ---------------------------------------------------------------------------------------------- gates


def print_gates(world: World, overrides: Sequence[str], items: int, package: str, console: "Console") -> int:
    """Print every gate of base and regime with its verdict, and the levels of each benchmark."""
    from evaluation.regime import GATES, Verdict, regime_verdicts
    from recipes.errors import RecipeError
    from training.builtin import BUILTIN

    if changed := [text for text in overrides if not text.startswith("root=")]:
        raise RecipeError(f"{changed[0]}: the gates apply to the frozen recipe; only root=DIR is allowed")
    file = str(RECIPES / f"{world.recipe}.yaml")
    base = base_verdicts(BUILTIN[world.base], items)
    console.print(_table(f"Base {world.base}: exact-match share of held-out captions", base))
    try:
        results = find_results(file, overrides, package)
    except NoResults:
        verdicts = [gate.named(Verdict("–", "–", False, "not run")) for gate in GATES]
        console.print(_table("Regime: not run", verdicts))
        raise
    regime = regime_verdicts(results.comparison)
    flaw = f" ({results.flaw.upper()} RESULTS)" if results.flaw else ""
    console.print(_table(f"Regime{flaw}: scores in 0..1, mean over the benchmarks", regime))
    _print_origin(results, file, overrides, console)
    console.print(_level_table(results.comparison))
    failed = [verdict.gate for verdict in (*base, *regime) if not verdict.passed]
    total = len(base) + len(regime)
    console.print(
        f"{total - len(failed)} of {total} gates passed"
        + (f"; failed: {'; '.join(failed)}" if failed else "")
        + (f"; from {results.flaw} results" if results.flaw else ""),
        markup=False,
        soft_wrap=True,
    )
    return 1 if failed or results.flaw else 0


def base_verdicts(base: Path, items: int) -> list["Verdict"]:
    """Gates of a base model by its committed values (gates.json) and, if `items` > 0, by measuring it now."""
    from curation.mini.captions import GATES

    committed, measured = read_json(base / "gates.json"), {}
    if items:
        from evaluation.gates import measure_gates

        measured = measure_gates(base, items=items, seed=OTHER_CAPTIONS)
    return [
        _base_verdict(gate, required, committed.get(gate), measured.get(gate))
        for gate, required in GATES.items()
    ]


def _base_verdict(
    gate: str, required: float, committed: dict[str, Any] | None, measured: dict[str, Any] | None
) -> "Verdict":
    """Passes if the committed value and, where there is one, the measured value reach the required one."""
    from evaluation.regime import Verdict

    values = [entry for entry in (measured, committed) if entry]
    note = f"committed {committed['value']:.3f} (n {committed['n']})" if committed else "no committed value"
    value, n = (f"{values[0]['value']:.3f}", str(values[0]["n"])) if values else ("–", "–")
    passed = committed is not None and all(entry["value"] >= required for entry in values)
    note = f"measured now; {note}" if measured else note
    return Verdict(value, n, passed, note, gate, f">= {required:.2f}")


def _table(title: str, verdicts: Sequence["Verdict"]) -> "Table":
    from rich import box
    from rich.table import Table

    columns = ("gate", "value", "required", "n", "verdict", "note")
    table = Table(*columns, title=title, title_justify="left", box=box.MARKDOWN)
    for v in verdicts:
        verdict, style = ("pass", "") if v.passed else ("FAIL", "bold red")
        table.add_row(v.gate, v.value, v.wanted, v.n, verdict, v.note, style=style)
    return table


def _level_table(comparison: dict[str, Any]) -> "Table | str":
    """The full arm's score on each benchmark, its blind majority, shuffled-image score and chance level."""
    from rich import box
    from rich.table import Table

    from evaluation.regime import Unmeasured, levels

    try:
        by_benchmark = levels(comparison)
    except Unmeasured as error:
        return f"no levels: {error}"
    table = Table(
        "benchmark", title="Full arm by benchmark, in % of the scale", title_justify="left", box=box.MARKDOWN
    )
    for name in ("full", "blind majority", "shuffled image", "grounded gain", "chance", "n"):
        table.add_column(name, justify="right")
    for level in by_benchmark:
        percents = (level.full, level.blind, level.shuffled, level.gain, level.chance)
        table.add_row(
            level.label, *("–" if value is None else f"{100 * value:.1f}" for value in percents), str(level.n)
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
