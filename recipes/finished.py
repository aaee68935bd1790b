"""Finished comparisons: where the results of a recipe are, and whether they are current, stale or partial."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recipes.graph import Plan

RECIPES = Path(__file__).parent
RESULTS = RECIPES / "results"
"""The shipped results, one folder for each recipe."""


class NoResults(Exception):
    """No finished run of the recipe exists; the message says how to get one."""


@dataclass(frozen=True)
class Results:
    """A finished comparison, and how it relates to the recipe as it is now.

    `changed` lists the kinds of stages that have changed since; empty for current results. `missing` counts
    the recipe's evaluations that are not included (`recipes.run --partial`). `made_with` and `present` are
    hashes of base and pool, then and now.
    """

    folder: Path
    comparison: dict[str, Any]
    changed: tuple[str, ...]
    made_with: dict[str, str]
    present: dict[str, str]
    missing: int = 0

    @property
    def flaw(self) -> str:
        """`stale`, `partial`, or empty for results of the whole recipe as it is now."""
        return "stale" if self.changed else "partial" if self.missing else ""

    @property
    def shipped(self) -> bool:
        return self.folder.parent == RESULTS

    def origin(self, command: str) -> Iterator[str]:
        """Lines that say where the results come from, and whether `command` would change them."""
        yield f"results: {self.folder}, computed with {_in_words(self.made_with)}"
        if self.shipped:
            yield f"these are the shipped results, not those of a run of yours; `{command}` computes your own"
        if self.missing:
            yield (
                f"PARTIAL: {self.missing} evaluations of the recipe are not included; `{command}` "
                "computes the rest"
            )
        if self.changed:
            yield (
                f"STALE: these stages have changed since: {', '.join(self.changed)}; now it is "
                f"{_in_words(self.present)}. `{command}` computes current results"
            )


def find_results(file: str, overrides: Sequence[str], package: str = "recipes.stages") -> Results:
    """The comparison of a recipe: from the store, else from the run directory, else the shipped one.

    Current results are preferred to stale ones. Raises RecipeError for an invalid recipe, NoResults if there
    are none.
    """
    from recipes import rundir, store
    from recipes.code import Stages
    from recipes.engine import root_of
    from recipes.errors import RecipeError
    from recipes.external import Fingerprints
    from recipes.graph import store_path
    from recipes.load import load
    from recipes.plan import make_plan

    loaded = load(file, overrides)
    root, name = root_of(loaded), loaded.recipe.name
    stages, prints = Stages(package), Fingerprints(root / "store" / "fingerprints")
    plan = make_plan(loaded, stages, prints)
    last = plan.nodes[-1]
    if last.kind != "compare":
        raise RecipeError(f"{name} compares no arms; its result is in store/{last.kind}")
    present = _made_with(rundir.stages_of(plan))
    artefact = store_path(root, last.kind, last.hash)
    if store.check(artefact, last.hash) == "done":
        return Results(artefact, read_json(artefact / "comparison.json"), (), present, present)
    recorded = []
    for folder in (root / "runs" / name, RESULTS / name):
        if (folder / "comparison.json").is_file() and (folder / "lineage.json").is_file():
            # Which controls were needed is told by selections, which may be in no store of this machine.
            settled = read_json(folder / "lineage.json").get("controls")
            then = make_plan(loaded, stages, prints, settled=settled) if settled and plan.deciding else plan
            recorded.append(_recorded(folder, then, present))
    if not recorded:
        command = run_command(file, overrides)
        raise NoResults(f"{name} has no finished run in {root} and no shipped results; run `{command}` first")
    return next((results for results in recorded if not results.flaw), recorded[0])


def folder_results(folder: Path, out: Path | None = None) -> Results:
    """The results in a folder without a recipe to hold them against, such as a copy of a shipped one.

    With `out`, or without comparison.json, they are computed from the experiment's files; `out` gets all that
    is shown of them. Raises NoResults, ResultsError.
    """
    if out is not None:
        return Results(folder, rebuilt(folder, out), (), {}, {})
    if (folder / "comparison.json").is_file():
        return Results(folder, read_json(folder / "comparison.json"), (), {}, {})
    from evaluation.aggregate import compare
    from evaluation.experiment import Experiment

    return Results(folder, compare(Experiment.read(folder)).to_dict(), (), {}, {})


def rebuilt(folder: Path, out: Path) -> dict[str, Any]:
    """Make all that is shown of an experiment again in `out`; returns its comparison. Raises ResultsError."""
    from evaluation.rebuild import rebuild

    return rebuild(folder, out).to_dict()


def _recorded(folder: Path, plan: "Plan", present: dict[str, str]) -> Results:
    """The results in a folder, compared with the plan by its lineage.json."""
    from recipes import rundir

    then, now = read_json(folder / "lineage.json")["stages"], rundir.stages_of(plan)
    absent = [stage["kind"] for name, stage in now.items() if name not in then]
    changed = {
        stage["kind"] for name, stage in now.items() if name in then and then[name]["hash"] != stage["hash"]
    }
    changed |= {then[name]["kind"] for name in then.keys() - now.keys()}
    if absent:
        changed.discard("compare")  # a partial comparison has fewer inputs and so another hash
    return Results(
        folder,
        read_json(folder / "comparison.json"),
        tuple(sorted(changed)),
        _made_with(then),
        present,
        absent.count("evaluate"),
    )


def _made_with(stages: Mapping[str, Any]) -> dict[str, str]:
    """First 12 digits of the hashes of base model and pool in stages as lineage.json lists them."""
    trained = next(stage for stage in stages.values() if stage["kind"] == "train")
    return {"base": trained["inputs"]["base"]["hash"][:12], "pool": trained["inputs"]["pool"][:12]}


def _in_words(hashes: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {digest}" for name, digest in hashes.items())


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of a run directory. Raises NoResults if it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NoResults(f"{path} cannot be read ({error}); delete it and run the recipe again") from error


def run_command(file: str, overrides: Sequence[str]) -> str:
    """The command that computes a recipe's results; a shipped recipe is named without its path."""
    shipped = Path(file).parent == RECIPES
    return " ".join(["python -m recipes.run", Path(file).name if shipped else file, *overrides])
