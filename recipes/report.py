"""Print what a finished recipe found, or the gates that a built-in world was asked to pass before anything was compared in it.

    python -m recipes.report mini_regime
    python -m recipes.report --gates mini

Exit status 0 if everything that was asked holds, 1 if a gate is not passed or the figures are stale or
partial, 2 if there are none.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation.command import CommandParser

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from evaluation.regime import Verdict
    from recipes.graph import Plan

RECIPES = Path(__file__).parent
RESULTS = RECIPES / "results"
"""Finished runs as they are shipped, one folder for each recipe."""
OTHER_CAPTIONS = 1
"""Seed of the captions that the base is measured on again; the committed figures are of seed 0."""


@dataclass(frozen=True)
class World:
    """A built-in world: the recipe whose comparison its regime is judged by, and its base model."""

    recipe: str
    base: str


WORLDS = {"mini": World("mini_regime", "builtin:mini")}


class NoFigures(Exception):
    """No finished run of the recipe was found; says how to get one."""


@dataclass(frozen=True)
class Figures:
    """A finished comparison and how it stands to the recipe as it is now.

    `changed` names the stages that are not the ones that the figures were made by; none: the figures are
    current. `missing` counts the recipe's evaluations that they do not rest on (`recipes.run --partial`).
    `made_with` and `present` are hashes of base and pool, then and now.
    """

    folder: Path
    comparison: dict[str, Any]
    changed: tuple[str, ...]
    made_with: dict[str, str]
    present: dict[str, str]
    missing: int = 0

    @property
    def flaw(self) -> str:
        """`stale`, `partial`, or nothing for figures of the whole recipe as it is now."""
        return "stale" if self.changed else "partial" if self.missing else ""

    @property
    def shipped(self) -> bool:
        return self.folder.parent == RESULTS


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = CommandParser(prog="python -m recipes.report", description=__doc__.splitlines()[0])
    made.add_argument(
        "words",
        metavar="NAME | key=value",
        nargs="*",
        help="recipe or run directory whose findings are printed; overrides as they were given to "
        "recipes.run, such as root=DIR",
    )
    made.add_argument(
        "--gates",
        metavar="WORLD",
        nargs="?",
        const="",
        help="print a world's gates; without WORLD: which worlds there are",
    )
    made.add_argument(
        "--items",
        metavar="N",
        type=int,
        default=100,
        help="held-out captions that each gate of the base is measured on again (default 100); 0: only "
        "say what was committed",
    )
    return made


def main(arguments: Sequence[str] | None = None, package: str = "recipes.stages") -> int:
    """Exit status as said above, 2 also for a wrong command. `package` holds the stage modules."""
    given = parser().parse_intermixed_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from rich.console import Console

    from recipes.errors import RecipeError, nearest

    overrides = [word for word in given.words if "=" in word]
    names = [word for word in given.words if "=" not in word]
    console = Console(width=None if sys.stdout.isatty() else 170, highlight=False)
    try:
        if given.gates == "":
            console.print(
                "\n".join(
                    f"{name}: regime {world.recipe}.yaml, base {world.base}" for name, world in WORLDS.items()
                )
            )
            return 0
        if len(names) != (given.gates is None) or given.items < 0:
            raise RecipeError("give the name of one recipe, or --gates WORLD [--items N], N from 0")
        if given.gates is None:
            return print_findings(names[0], overrides, package, console)
        if given.gates not in WORLDS:
            raise RecipeError(f"there is no world `{given.gates}`; {nearest(given.gates, WORLDS)}")
        return print_gates(WORLDS[given.gates], overrides, given.items, package, console)
    except (RecipeError, NoFigures) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


# ---------------------------------------------------------------------------------------------- figures


def find_figures(file: str, overrides: Sequence[str], package: str = "recipes.stages") -> Figures:
    """The comparison of a recipe: from the store, else the run directory, else as shipped; current ones before stale ones.

    Raises RecipeError for a recipe that is wrong, NoFigures where nothing was finished.
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
    plan = make_plan(loaded, Stages(package), Fingerprints(root / "store" / "fingerprints"))
    last = plan.nodes[-1]
    if last.kind != "compare":
        raise RecipeError(f"{name} compares no arms; what it made is in store/{last.kind}")
    present = _made_with(rundir.stages_of(plan))
    finished = store_path(root, last.kind, last.hash)
    if store.check(finished, last.hash) == "done":
        return Figures(finished, _read(finished / "comparison.json"), (), present, present)
    found = [
        _recorded(folder, plan, present)
        for folder in (root / "runs" / name, RESULTS / name)
        if (folder / "comparison.json").is_file() and (folder / "lineage.json").is_file()
    ]
    if not found:
        raise NoFigures(
            f"there is no finished run of {name} in {root}, and none is shipped; run "
            f"`{_command(file, overrides)}` first"
        )
    return next((figures for figures in found if not figures.flaw), found[0])


def _recorded(folder: Path, plan: "Plan", present: dict[str, str]) -> Figures:
    """Figures of a folder, held against the plan by its lineage.json."""
    from recipes import rundir

    then, now = _read(folder / "lineage.json")["stages"], rundir.stages_of(plan)
    absent = [stage["kind"] for name, stage in now.items() if name not in then]
    changed = {
        stage["kind"] for name, stage in now.items() if name in then and then[name]["hash"] != stage["hash"]
    }
    changed |= {then[name]["kind"] for name in then.keys() - now.keys()}
    if absent:
        changed.discard("compare")  # it cannot be the same: it has fewer inputs
    return Figures(
        folder,
        _read(folder / "comparison.json"),
        tuple(sorted(changed)),
        _made_with(then),
        present,
        absent.count("evaluate"),
    )


def _made_with(stages: Mapping[str, Any]) -> dict[str, str]:
    """First 12 digits of the hashes of base model and pool that stages (as in lineage.json) rest on."""
    trained = next(stage for stage in stages.values() if stage["kind"] == "train")
    return {"base": trained["inputs"]["base"]["hash"][:12], "pool": trained["inputs"]["pool"][:12]}


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NoFigures(f"{path} cannot be read ({error}); delete it and run the recipe again") from error


def _origin(figures: Figures, command: str) -> Iterator[str]:
    """Where the figures are from, and whether they are of the recipe, code and data as they are now."""
    made = ", ".join(f"{what} {digest}" for what, digest in figures.made_with.items())
    yield f"figures: {figures.folder}, made with {made}"
    if figures.shipped:
        yield f"these are the shipped results, not a run of yours; `{command}` makes your own"
    if figures.missing:
        yield f"PARTIAL: {figures.missing} evaluations of the recipe are not in these figures; "
        f"`{command}` makes the rest"
    if figures.changed:
        present = ", ".join(f"{what} {digest}" for what, digest in figures.present.items())
        yield f"STALE: these stages have changed since: {', '.join(figures.changed)}; present are "
        f"{present}. `{command}` makes current figures"


# ---------------------------------------------------------------------------------------------- findings


def print_findings(name: str, overrides: Sequence[str], package: str, console: "Console") -> int:
    """Where the report of a finished run lies, and the mean of each of its arms."""
    file = str(Path(name) / "recipe.yaml") if Path(name).is_dir() else name
    figures = find_figures(file, overrides, package)
    for line in _origin(figures, _command(file, overrides)):
        console.print(line, markup=False, soft_wrap=True)
    for arm in figures.comparison["arms"]:
        spread, found = arm["mean"], arm["difference"]
        std = "" if spread["std"] is None else f" ± {spread['std']:.2f}"
        against = (
            f", {found['value']:+.2f} [{found['low']:+.2f}, {found['high']:+.2f}] to "
            f"{arm.get('baseline', 'the baseline')}"
            if found
            else ""
        )
        console.print(
            f"{arm['arm']} {arm['budget']}: mean {spread['mean']:.2f}{std} % (seeds: "
            f"{arm['units']}){against}",
            markup=False,
            soft_wrap=True,
        )
    console.print(f"report: {figures.folder / 'report.md'}", markup=False, soft_wrap=True)
    return 1 if figures.flaw else 0


# ---------------------------------------------------------------------------------------------- gates


def print_gates(world: World, overrides: Sequence[str], items: int, package: str, console: "Console") -> int:
    """Every gate of the base and of the regime: value, wanted, n, pass or FAIL; then each benchmark's
    levels."""
    from evaluation.regime import GATES, Verdict, regime_verdicts
    from recipes.errors import RecipeError
    from training.builtin import BUILTIN

    if changed := [text for text in overrides if not text.startswith("root=")]:
        raise RecipeError(f"{changed[0]}: gates are asked of the frozen recipe; only root=DIR can be given")
    file = str(RECIPES / f"{world.recipe}.yaml")
    base = base_verdicts(BUILTIN[world.base], items)
    console.print(
        _table(f"Base {world.base}: share of held-out captions that are right to the last token", base)
    )
    try:
        figures = find_figures(file, overrides, package)
    except NoFigures:
        console.print(
            _table("Regime: not run", [gate.named(Verdict("–", "–", False, "not run")) for gate in GATES])
        )
        raise
    regime = regime_verdicts(figures.comparison)
    console.print(
        _table(
            f"Regime{f' ({figures.flaw.upper()} FIGURES)' if figures.flaw else ''}: scores in 0..1, "
            "mean of the benchmarks",
            regime,
        )
    )
    for line in _origin(figures, _command(file, overrides)):
        console.print(line, markup=False, soft_wrap=True)
    console.print(_level_table(figures.comparison))
    failed = [verdict.gate for verdict in (*base, *regime) if not verdict.passed]
    console.print(
        f"{len(base) + len(regime) - len(failed)} of {len(base) + len(regime)} gates passed"
        + (f"; not passed: {'; '.join(failed)}" if failed else "")
        + (f"; by {figures.flaw} figures" if figures.flaw else ""),
        markup=False,
        soft_wrap=True,
    )
    return 1 if failed or figures.flaw else 0


def base_verdicts(base: Path, items: int) -> list["Verdict"]:
    """Gates of a base model: its committed figures (gates.json), and those of `items` other captions measured
    now."""
    from curation.mini.captions import GATES

    committed, measured = _read(base / "gates.json"), {}
    if items:
        from evaluation.gates import measure_gates

        measured = measure_gates(base, items=items, seed=OTHER_CAPTIONS)
    return [
        _base_verdict(gate, wanted, committed.get(gate), measured.get(gate)) for gate, wanted in GATES.items()
    ]


def _base_verdict(
    gate: str, wanted: float, committed: dict[str, Any] | None, measured: dict[str, Any] | None
) -> "Verdict":
    """Passed if what was committed, and what was measured now if anything was, reach what is wanted."""
    from evaluation.regime import Verdict

    found = [figures for figures in (measured, committed) if figures]
    said = (
        f"committed {committed['value']:.3f} (n {committed['n']})" if committed else "no figure was committed"
    )
    value, n = (f"{found[0]['value']:.3f}", str(found[0]["n"])) if found else ("–", "–")
    passed = committed is not None and all(figures["value"] >= wanted for figures in found)
    return Verdict(value, n, passed, f"measured now; {said}" if measured else said, gate, f">= {wanted:.2f}")


def _table(title: str, verdicts: Sequence["Verdict"]) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(
        "gate", "value", "wanted", "n", "verdict", "note", title=title, title_justify="left", box=box.MARKDOWN
    )
    for v in verdicts:
        table.add_row(
            v.gate,
            v.value,
            v.wanted,
            v.n,
            "pass" if v.passed else "FAIL",
            v.note,
            style="" if v.passed else "bold red",
        )
    return table


def _level_table(comparison: dict[str, Any]) -> "Table | str":
    """Each benchmark of the full arm beside its blind majority, its shuffled-image score and chance."""
    from rich import box
    from rich.table import Table

    from evaluation.regime import Unmeasured, levels

    try:
        found = levels(comparison)
    except Unmeasured as error:
        return f"no levels: {error}"
    table = Table(
        "benchmark", title="Full arm by benchmark, in % of the scale", title_justify="left", box=box.MARKDOWN
    )
    for name in ("full", "blind majority", "shuffled image", "grounded gain", "chance", "n"):
        table.add_column(name, justify="right")
    for level in found:
        percents = (level.full, level.blind, level.shuffled, level.gain, level.chance)
        table.add_row(
            level.label, *("–" if value is None else f"{100 * value:.1f}" for value in percents), str(level.n)
        )
    return table


def _command(file: str, overrides: Sequence[str]) -> str:
    """The command that makes the figures; a shipped recipe goes by its bare name."""
    shipped = Path(file).parent == RECIPES
    return " ".join(["python -m recipes.run", Path(file).name if shipped else file, *overrides])


if __name__ == "__main__":
    sys.exit(main())
