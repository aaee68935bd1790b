"""Run a recipe from the pool to the report, reusing the stages that are done.

python -m recipes.run mmssr_30pct.yaml
python -m recipes.run mmssr_30pct.yaml scale=smoke arms.random.seeds=2 --dry-run
python -m recipes.run mini_study.yaml --partial
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from curation.command import CommandParser

if TYPE_CHECKING:
    from rich.console import Console

    from recipes.graph import Plan
    from recipes.load import Loaded
    from recipes.training_costs import TrainingCosts


def parser() -> argparse.ArgumentParser:
    """The parser of this command."""
    command = CommandParser(prog="python -m recipes.run", description=__doc__.splitlines()[0])
    command.add_argument("file", metavar="FILE", help="recipe; a bare name is also looked up in recipes/")
    command.add_argument(
        "overrides", metavar="key=value", nargs="*", help="dotted key of the recipe, value in YAML"
    )
    command.add_argument(
        "--dry-run", action="store_true", help="print the stages and which are cached; run nothing"
    )
    command.add_argument(
        "--partial",
        action="store_true",
        help="compare the repetitions that are finished for every arm on every pool, in runs/NAME.partial; "
        "train nothing",
    )
    command.add_argument("--until", metavar="STAGE", help="stop after the stages of this kind or name")
    command.add_argument(
        "--force", metavar="STAGE", help="rerun the stages of this kind or name and all that depend on them"
    )
    command.add_argument("--executor", choices=("inline", "pool"), help="same as resources.executor=...")
    command.add_argument(
        "--limit", metavar="N", type=int, help="same as limit=N: only the first N samples and benchmark items"
    )
    return command


def main(arguments: Sequence[str] | None = None, package: str = "recipes.stages") -> int:
    """Exit status 0; 1 if a stage or the store failed; 2 for a wrong recipe; 128 + n after signal n.

    `package` contains the stage modules.
    """
    options = parser().parse_intermixed_args(arguments)
    # Before any numeric library is imported: with one thread here too, inline and pool give equal results.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from recipes.command import exit_status

    return exit_status(lambda: _run(options, package))


def _run(options: argparse.Namespace, package: str) -> int:
    from rich.console import Console

    from recipes.code import Stages
    from recipes.engine import refuse_unrunnable, root_of, run
    from recipes.external import Fingerprints
    from recipes.load import load
    from recipes.plan import make_plan
    from recipes.tracking.follow import tracked

    extra = [f"resources.executor={options.executor}"] if options.executor else []
    extra += [f"limit={options.limit}"] if options.limit is not None else []
    loaded = load(options.file, [*options.overrides, *extra])
    root = root_of(loaded)
    prints = Fingerprints(root / "store" / "fingerprints")
    plan = make_plan(loaded, Stages(package), prints)
    if options.partial:
        finished = _finished(loaded, plan)
        loaded = loaded.renamed(f"{loaded.recipe.name}.partial")
        plan = make_plan(loaded, Stages(package), prints, finished)
    for stage in filter(None, (options.until, options.force)):
        plan.matching(stage)  # refuses unknown names before anything runs
    refuse_unrunnable(plan, options.until)
    console = Console()
    if options.dry_run:
        return _show_plan(loaded, plan, root, options, console)
    until, force = options.until, options.force
    with tracked(loaded, plan, root, console) as on_stage:
        place = run(loaded, plan, until=until, force=force, console=console, on_stage=on_stage)
    console.print(f"results: {place}", markup=False, soft_wrap=True)
    return 0


def _show_plan(
    loaded: "Loaded", plan: "Plan", root: Path, options: argparse.Namespace, console: "Console"
) -> int:
    """Print the stages, which of them are cached, expected seconds, and what the trainings cost."""
    from recipes.engine import survey
    from recipes.progress import stage_table
    from recipes.smallest_effect import effect_lines
    from recipes.training_costs import TrainingCosts

    present = survey(plan, root, options.until, options.force)
    todo = {node.name for node in present.todo}

    def state(name: str) -> str:
        return "new" if name in todo else "cached" if present.states[name] == "done" else "not needed"

    rows = [(n.name, state(n.name), present.expected[n.name] if n.name in todo else 0.0) for n in plan.nodes]
    costs = TrainingCosts(loaded, root)
    each = [costs.of(node) if node.name in todo else None for node in plan.nodes]
    known_costs = [cost for cost in each if cost]
    columns = costs.columns if known_costs else ()
    title = f"{loaded.recipe.name}, protocol {loaded.protocol}"
    console.print(stage_table(rows, title, columns, [costs.cells(cost) for cost in each]), crop=False)
    notes = _show_costs(loaded, plan, costs, present.expected, console) if known_costs else []
    total = [costs.total(known_costs)] if known_costs else []
    for note in (*plan.notes, *costs.notes, *notes, *total, *effect_lines(plan, root)):
        console.print(note, markup=False, soft_wrap=True)
    known = [seconds for _, _, seconds in rows if seconds is not None]
    unknown = len(rows) - len(known)
    console.print(
        f"{len(todo)} stages to run, {len(rows) - len(todo)} not; {expectation(sum(known), unknown)}",
        soft_wrap=True,
    )
    return 0


def _show_costs(
    loaded: "Loaded",
    plan: "Plan",
    trainings: "TrainingCosts",
    expected: dict[str, float | None],
    console: "Console",
) -> list[str]:
    """Print what selection and training of each arm cost; returns what could not be counted, and why."""
    from recipes.planned_costs import arm_table, planned_costs

    if loaded.recipe.goal == "base":
        return []
    costs = planned_costs(plan, trainings, expected)
    console.print(arm_table(costs.by_arm(), loaded.recipe.resources.gpu), crop=False)
    return costs.notes()


def expectation(seconds: float, unknown: int) -> str:
    """The expected work in words; `unknown` counts the stages without an earlier run to estimate from."""
    without = f", without {unknown} stages that have no earlier run to estimate from" if unknown else ""
    return f"expected {seconds:.0f} s of work{without}"


def _finished(loaded: "Loaded", plan: "Plan") -> int:
    """Number of repetitions finished for every arm on every pool. Raises RecipeError if there are none."""
    from recipes.engine import finished_repetitions, root_of
    from recipes.errors import RecipeError

    if loaded.recipe.goal == "compare" and (finished := finished_repetitions(plan, root_of(loaded))):
        return finished
    raise RecipeError(
        "--partial: no repetition is finished for every arm on every pool, so there is nothing to compare"
    )


if __name__ == "__main__":
    sys.exit(main())
