"""Run a recipe many times with some of its keys varied; each cell is an ordinary recipe in the same store.

    python -m recipes.sweep ablations/mini_defects.yaml                   # every cell, then table and plot
    python -m recipes.sweep ablations/mini_defects.yaml --dry-run --only 'blind*' scale=smoke
    python -m recipes.sweep ablations/mini_defects.yaml --cell default    # one cell, as one cluster job
    python -m recipes.sweep ablations/mini_defects.yaml --merge           # table and plot of finished cells

A sweep file:

    name: mini_defects
    recipe: mmssr_30pct.yaml            # or a recipe written here, which may have `extends:`
    mode: one_at_a_time                 # vary one key at a time; or grid: all combinations
    axes: {pool.defects.blind: [0, 0.05, 0.2]}
    cells: {clean: {pool.defects.blind: 0, pool.defects.zipf: 0}}   # further cells by name

Results: runs/<sweep>/sweep.md, sweep.parquet and sweep.png; each cell's own in runs/<sweep>/<cell>/. They are
made from sweep.json and each cell's scores.parquet, questions.parquet and experiment.json, with
`python -m recipes.report runs/<sweep> --out DIR` also elsewhere.
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
    """Run one cell. If a stage fails, writes failed.json into the cell's run directory and returns False."""
    from recipes import store
    from recipes.engine import refuse_unrunnable, run
    from recipes.errors import StageError
    from recipes.tracking.follow import tracked

    place = root / "runs" / cell.loaded.recipe.name
    try:
        refuse_unrunnable(plan)
        with tracked(cell.loaded, plan, root, console) as on_stage:
            run(cell.loaded, plan, console=console, on_stage=on_stage)
    except StageError as error:
        print(error.details, file=sys.stderr)
        console.print(f"{cell.name}: {error}", markup=False, soft_wrap=True)
        store.write_json(place / FAILED, {"compare": plan.nodes[-1].hash, "error": str(error)})
        return False
    (place / FAILED).unlink(missing_ok=True)
    return True


def outcome(cell: "Cell", plan: "Plan", root: Path) -> tuple[str, Any]:
    """For a cell's current recipe and code: ("done", folder of its comparison), ("failed", error) or
    ("not run", None)."""
    from recipes import store
    from recipes.graph import store_path

    last = plan.nodes[-1]
    artefact = store_path(root, last.kind, last.hash)
    if store.check(artefact, last.hash) == "done":
        return "done", artefact
    failed = root / "runs" / cell.loaded.recipe.name / FAILED
    record = json.loads(failed.read_text()) if failed.is_file() else {}
    return ("failed", record["error"]) if record.get("compare") == last.hash else ("not run", None)


def print_plan(plans: Mapping[str, "Plan"], root: Path, console: "Console") -> None:
    """Print each cell's stages and expected work; a shared stage counts in the first cell that needs it."""
    from rich.table import Table

    from recipes.engine import survey
    from recipes.run import expectation

    table = Table("cell", "to run", "cached", "shared", "expected s")
    seen: set[str] = set()
    expected: list[float | None] = []
    for name, plan in plans.items():
        present = survey(plan, root)
        new = [n for n in present.todo if n.hash not in seen]
        own = [present.expected[n.name] for n in new]
        table.add_row(
            name,
            str(len(new)),
            str(len(plan.nodes) - len(present.todo)),
            str(len(present.todo) - len(new)),
            f"{sum(filter(None, own)):.0f}{' + unknown' if None in own else ''}",
        )
        seen |= {n.hash for n in present.todo}
        expected += own
    console.print(table)
    work = expectation(sum(filter(None, expected)), expected.count(None))
    console.print(f"{len(plans)} cells, {len(expected)} stages to run; {work}", soft_wrap=True)


# ---------------------------------------------------------------------------------------------- command line


def parser() -> argparse.ArgumentParser:
    """The parser of this command."""
    command = CommandParser(prog="python -m recipes.sweep", description=__doc__.splitlines()[0])
    command.add_argument("file", metavar="FILE", help="sweep file; also looked up in recipes/")
    command.add_argument(
        "overrides",
        metavar="key=value",
        nargs="*",
        help="dotted key of the recipe of all cells, value in YAML",
    )
    command.add_argument(
        "--dry-run", action="store_true", help="print the cells and their stages; run nothing"
    )
    command.add_argument(
        "--only", metavar="PATTERN", help="run only the cells whose name matches, such as 'blind*'"
    )
    command.add_argument(
        "--cell", metavar="NAME", help="run only this cell and write no table: one job of a cluster"
    )
    command.add_argument(
        "--merge", action="store_true", help="run nothing; write table and plot of the finished cells"
    )
    return command


def main(arguments: Sequence[str] | None = None, package: str = "recipes.stages") -> int:
    """Exit status 0; 1 if a cell or the store failed; 2 for a wrong sweep file; 128 + n after signal n.

    `package` contains the stage modules.
    """
    options = parser().parse_intermixed_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before any numeric library is imported, as in recipes.run
    from recipes.command import exit_status

    return exit_status(lambda: _run(options, package))


def _run(options: argparse.Namespace, package: str) -> int:
    from rich.console import Console

    from recipes.code import Stages
    from recipes.engine import root_of
    from recipes.external import Fingerprints
    from recipes.sweep_file import load_sweep
    from recipes.sweep_table import write_results

    sweep = load_sweep(options.file, options.overrides)
    root = root_of(sweep.cells[0].loaded)
    plans = _plans(sweep, Stages(package), Fingerprints(root / "store" / "fingerprints"))
    chosen, console = _chosen(sweep, options), Console()
    if options.dry_run:
        print_plan({cell.name: plans[cell.name] for cell in chosen}, root, console)
        return 0
    cells_to_run = [] if options.merge else chosen
    succeeded = [run_cell(cell, plans[cell.name], root, console) for cell in cells_to_run]
    if not options.cell:
        outcomes = {cell.name: outcome(cell, plans[cell.name], root) for cell in sweep.cells}
        place = write_results(sweep, outcomes, root / "runs" / sweep.name)
        states = [state for state, _ in outcomes.values()]
        console.print(
            f"{', '.join(f'{states.count(s)} cells {s}' for s in dict.fromkeys(states))}; table: {place}",
            markup=False,
            soft_wrap=True,
        )
        if options.merge:
            succeeded = [state != "failed" for state in states]
    return 0 if all(succeeded) else 1


def _plans(sweep: "Sweep", stages: "Stages", prints: "Fingerprints") -> dict[str, "Plan"]:
    """The plan of every cell; all are made before the first cell runs, so that errors show up first."""
    from recipes.plan import make_plan

    return {cell.name: make_plan(cell.loaded, stages, prints) for cell in sweep.cells}


def _chosen(sweep: "Sweep", options: argparse.Namespace) -> "list[Cell]":
    """The cells that --cell or --only selects. Raises RecipeError if there are none."""
    from recipes.errors import RecipeError

    if options.cell:
        return [sweep.cell(options.cell)]
    chosen = [cell for cell in sweep.cells if fnmatch(cell.name, options.only or "*")]
    if not chosen:
        names = ", ".join(cell.name for cell in sweep.cells)
        raise RecipeError(f"--only {options.only}: no cell has a matching name; known are: {names}")
    return chosen


if __name__ == "__main__":
    sys.exit(main())
