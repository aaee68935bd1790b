"""Run a recipe: everything from the pool to the report, reusing what is done.

python -m recipes.run mmssr_30pct.yaml
python -m recipes.run mmssr_30pct.yaml scale=smoke arms.random.seeds=2 --dry-run
python -m recipes.run mini_study.yaml --partial
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from curation.command import CommandParser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = CommandParser(prog="python -m recipes.run", description=__doc__.splitlines()[0])
    made.add_argument("file", metavar="FILE", help="recipe; a bare name is also looked for under recipes/")
    made.add_argument(
        "overrides", metavar="key=value", nargs="*", help="dotted key of the recipe, value in YAML"
    )
    made.add_argument(
        "--dry-run", action="store_true", help="print the stages and what is cached, run nothing"
    )
    made.add_argument(
        "--partial",
        action="store_true",
        help="report into runs/NAME.partial on the repetitions that are finished for every arm on every pool; train nothing",
    )
    made.add_argument("--until", metavar="STAGE", help="stop after the stages of this kind or name")
    made.add_argument(
        "--force", metavar="STAGE", help="redo the stages of this kind or name, and what follows"
    )
    made.add_argument("--executor", choices=("inline", "pool"), help="same as resources.executor=...")
    made.add_argument(
        "--limit", metavar="N", type=int, help="same as limit=N: the first N samples and benchmark items"
    )
    return made


def main(arguments: Sequence[str] | None = None, package: str = "recipes.stages") -> int:
    """Exit status 0, 1 if a stage or the store failed, 2 if the recipe is wrong. `package` holds the stage modules."""
    given = parser().parse_intermixed_args(arguments)
    # One thread here too, before any numeric library starts: inline and pool then give equal results.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from recipes.command import exit_status

    return exit_status(lambda: _run(given, package))


@contextmanager
def tracked(loaded: Any, place: Path, console: Any) -> Iterator[Callable[..., None]]:
    """Log stages, comparison and pictures to wandb as the recipe asks; tracking that fails is said and stops nothing."""
    from recipes.stop import GRACE
    from recipes.tracker import FINISH_SECONDS, Tracker

    settings = loaded.recipe.track.wandb
    tracker = Tracker.start(
        settings.mode,
        project=settings.project,
        name=loaded.recipe.name,
        run_dir=place,
        config=loaded.recipe.model_dump(mode="json"),
    )
    finished = set()

    def on_stage(node: Any, outcome: Any) -> None:
        finished.add(node.kind)
        tracker.stage(node.name, outcome.seconds, outcome.state == "cached")

    seconds = FINISH_SECONDS
    try:
        yield on_stage
        if "compare" in finished and (place / "comparison.json").is_file():
            tracker.comparison(json.loads((place / "comparison.json").read_text()))
            tracker.pictures(sorted(place.glob("*.png")))
    except KeyboardInterrupt:
        seconds = GRACE
        raise
    finally:
        console.print(str(tracker.finish(seconds)), markup=False, soft_wrap=True)


def _run(given: argparse.Namespace, package: str) -> int:
    from rich.console import Console

    from recipes.code import Stages
    from recipes.engine import refuse_unrunnable, root_of, run
    from recipes.external import Fingerprints
    from recipes.load import load
    from recipes.plan import make_plan

    extra = [f"resources.executor={given.executor}"] if given.executor else []
    extra += [f"limit={given.limit}"] if given.limit is not None else []
    loaded = load(given.file, [*given.overrides, *extra])
    root = root_of(loaded)
    prints = Fingerprints(root / "store" / "fingerprints")
    plan = make_plan(loaded, Stages(package), prints)
    if given.partial:
        finished = _finished(loaded, plan)
        loaded = loaded.renamed(f"{loaded.recipe.name}.partial")
        plan = make_plan(loaded, Stages(package), prints, finished)
    for stage in filter(None, (given.until, given.force)):
        plan.matching(stage)
    refuse_unrunnable(plan, given.until)
    console = Console()
    if given.dry_run:
        return _show_plan(loaded, plan, root, given, console)
    with tracked(loaded, root / "runs" / loaded.recipe.name, console) as on_stage:
        place = run(loaded, plan, until=given.until, force=given.force, console=console, on_stage=on_stage)
    console.print(f"results: {place}", markup=False, soft_wrap=True)
    return 0


def _show_plan(loaded: Any, plan: Any, root: Path, given: argparse.Namespace, console: Any) -> int:
    """Print the stages, which of them are cached, and the expected seconds."""
    from recipes.engine import survey
    from recipes.progress import stage_table

    survey_now = survey(plan, root, given.until, given.force)
    todo = {node.name for node in survey_now.todo}

    def state(name: str) -> str:
        return "new" if name in todo else "cached" if survey_now.states[name] == "done" else "not needed"

    rows = [
        (n.name, state(n.name), survey_now.expected[n.name] if n.name in todo else 0.0) for n in plan.nodes
    ]
    console.print(stage_table(rows, f"{loaded.recipe.name}, protocol {loaded.protocol}"))
    known = [seconds for _, _, seconds in rows if seconds is not None]
    unknown = len(rows) - len(known)
    beside = f", and {unknown} stages of which no earlier run is known" if unknown else ""
    console.print(
        f"{len(todo)} stages to run, {len(rows) - len(todo)} not; expected {sum(known):.0f} s of work{beside}",
        soft_wrap=True,
    )
    return 0


def _finished(loaded: Any, plan: Any) -> int:
    """How many repetitions are finished for every arm on every pool. Raises RecipeError if none is."""
    from recipes.engine import finished_repetitions, root_of
    from recipes.errors import RecipeError

    if loaded.recipe.goal == "compare" and (finished := finished_repetitions(plan, root_of(loaded))):
        return finished
    raise RecipeError(
        "--partial: no repetition is finished for every arm on every pool, so there is nothing to compare"
    )


if __name__ == "__main__":
    sys.exit(main())
