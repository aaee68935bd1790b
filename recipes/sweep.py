"""Run a recipe many times, with some of its keys varied: each cell is an ordinary recipe in the same store.

    python -m recipes.sweep ablations/mini_defects.yaml                       # every cell, then table and picture
    python -m recipes.sweep ablations/mini_defects.yaml --dry-run --only 'blind*' scale=smoke
    python -m recipes.sweep ablations/mini_defects.yaml --cell default        # one cell, for one job of a cluster
    python -m recipes.sweep ablations/mini_defects.yaml --merge               # table and picture of what is done

A sweep file:

    name: mini_defects
    recipe: mmssr_30pct.yaml            # or a recipe written here, which may have `extends:`
    mode: one_at_a_time                 # around the recipe's own values; or grid: all combinations
    axes: {pool.defects.blind: [0, 0.05, 0.2]}
    cells: {clean: {pool.defects.blind: 0, pool.defects.zipf: 0}}   # further cells by name

Results: runs/<sweep>/sweep.md, sweep.parquet and sweep.png; each cell's own in runs/<sweep>/<cell>/.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation.command import CommandParser

if TYPE_CHECKING:
    from rich.console import Console

    from recipes.code import Stages
    from recipes.external import Fingerprints
    from recipes.graph import Plan
    from recipes.sweep_file import Cell, Sweep

FAILED = "failed.json"


def run_cell(cell: "Cell", plan: "Plan", root: Path, console: "Console") -> bool:
    """Run one cell through the engine; False if a stage failed, which is then written to failed.json of the cell."""
    from recipes import store
    from recipes.engine import refuse_unrunnable, run
    from recipes.errors import StageError
    from recipes.run import tracked

    place = root / "runs" / cell.loaded.recipe.name
    try:
        refuse_unrunnable(plan)
        with tracked(cell.loaded, place, console) as on_stage:
            run(cell.loaded, plan, console=console, on_stage=on_stage)
    except StageError as error:
        print(error.details, file=sys.stderr)
        console.print(f"{cell.name}: {error}", markup=False, soft_wrap=True)
        store.write_json(place / FAILED, {"compare": plan.nodes[-1].hash, "error": str(error)})
        return False
    (place / FAILED).unlink(missing_ok=True)
    return True


def outcome(cell: "Cell", plan: "Plan", root: Path) -> tuple[str, Any]:
    """("done", comparison), ("failed", error) or ("not run", None) of a cell, as its recipe and the code stand now."""
    from recipes import store
    from recipes.graph import store_path

    last = plan.nodes[-1]
    made = store_path(root, last.kind, last.hash)
    if store.check(made, last.hash) == "done":
        return "done", json.loads((made / "comparison.json").read_text())
    failed = root / "runs" / cell.loaded.recipe.name / FAILED
    record = json.loads(failed.read_text()) if failed.is_file() else {}
    return ("failed", record["error"]) if record.get("compare") == last.hash else ("not run", None)


def print_plan(plans: Mapping[str, "Plan"], root: Path, console: "Console") -> None:
    """Cells with their stages to run, each stage counted in the first cell that needs it, and the expected work."""
    from rich.table import Table

    from recipes.engine import survey

    table = Table("cell", "to run", "cached", "shared", "expected s")
    seen: set[str] = set()
    seconds, stages, unknown = 0.0, 0, 0
    for name, plan in plans.items():
        found = survey(plan, root)
        new = [n for n in found.todo if n.hash not in seen]
        expected = [found.expected[n.name] for n in new]
        table.add_row(
            name,
            str(len(new)),
            str(len(plan.nodes) - len(found.todo)),
            str(len(found.todo) - len(new)),
            f"{sum(filter(None, expected)):.0f}{' + unknown' if None in expected else ''}",
        )
        seen |= {n.hash for n in found.todo}
        seconds, stages, unknown = (
            seconds + sum(filter(None, expected)),
            stages + len(new),
            unknown + expected.count(None),
        )
    console.print(table)
    console.print(
        f"{len(plans)} cells, {stages} stages to run; expected {seconds:.0f} s of work"
        + (f", and {unknown} stages of which no earlier run is known" if unknown else ""),
        soft_wrap=True,
    )


# ---------------------------------------------------------------------------------------------- command line


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = CommandParser(prog="python -m recipes.sweep", description=__doc__.splitlines()[0])
    made.add_argument("file", metavar="FILE", help="sweep file; also looked for under recipes/")
    made.add_argument(
        "overrides",
        metavar="key=value",
        nargs="*",
        help="dotted key of the recipe of all cells, value in YAML",
    )
    made.add_argument("--dry-run", action="store_true", help="print the cells and their stages, run nothing")
    made.add_argument(
        "--only", metavar="PATTERN", help="run only the cells whose name matches, such as 'blind*'"
    )
    made.add_argument("--cell", metavar="NAME", help="run this cell and write no table: one job of a cluster")
    made.add_argument(
        "--merge", action="store_true", help="run nothing, write table and picture of what is done"
    )
    return made


def main(arguments: Sequence[str] | None = None, package: str = "recipes.stages") -> int:
    """Exit status 0, 1 if a cell or the store failed, 2 if the sweep is wrong. `package` holds the stage modules."""
    given = parser().parse_intermixed_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before any numeric library starts, as in recipes.run
    from recipes.command import exit_status

    return exit_status(lambda: _run(given, package))


def _run(given: argparse.Namespace, package: str) -> int:
    from rich.console import Console

    from recipes.code import Stages
    from recipes.engine import root_of
    from recipes.external import Fingerprints
    from recipes.sweep_file import load_sweep
    from recipes.sweep_table import write_results

    sweep = load_sweep(given.file, given.overrides)
    root = root_of(sweep.cells[0].loaded)
    plans = _plans(sweep, Stages(package), Fingerprints(root / "store" / "fingerprints"))
    chosen, console = _chosen(sweep, given), Console()
    if given.dry_run:
        print_plan({cell.name: plans[cell.name] for cell in chosen}, root, console)
        return 0
    good = [run_cell(cell, plans[cell.name], root, console) for cell in ([] if given.merge else chosen)]
    if not given.cell:
        outcomes = {cell.name: outcome(cell, plans[cell.name], root) for cell in sweep.cells}
        place = write_results(sweep, outcomes, root / "runs" / sweep.name)
        states = [state for state, _ in outcomes.values()]
        console.print(
            f"{', '.join(f'{states.count(s)} cells {s}' for s in dict.fromkeys(states))}; table: {place}",
            markup=False,
            soft_wrap=True,
        )
        if given.merge:
            good = [state != "failed" for state in states]
    return 0 if all(good) else 1


def _plans(sweep: "Sweep", stages: "Stages", prints: "Fingerprints") -> dict[str, "Plan"]:
    """The plan of every cell, made before the first one runs, so that a wrong one is found first."""
    from recipes.plan import make_plan

    return {cell.name: make_plan(cell.loaded, stages, prints) for cell in sweep.cells}


def _chosen(sweep: "Sweep", given: argparse.Namespace) -> "list[Cell]":
    from recipes.errors import RecipeError

    if given.cell:
        return [sweep.cell(given.cell)]
    chosen = [cell for cell in sweep.cells if fnmatch(cell.name, given.only or "*")]
    if not chosen:
        raise RecipeError(
            f"--only {given.only}: no cell is called so; there are {', '.join(c.name for c in sweep.cells)}"
        )
    return chosen


if __name__ == "__main__":
    sys.exit(main())
