"""Bring the stages of a plan up to date: find which are done, run the others, write the run directory."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from recipes import controls, rundir, store
from recipes.errors import RecipeError, StageError
from recipes.executors import Schedule, run_inline, run_pool
from recipes.graph import Node, Plan, rate_key, store_path
from recipes.load import Loaded
from recipes.progress import PlainDisplay, display, stage_table
from recipes.schema import Resources
from recipes.stages.control_notes import in_words
from recipes.stop import Stopped
from recipes.task import Outcome, Task

UNKNOWN_RATE = 1 / 200
"""Assumed seconds per unit of work for stages without records in the store; only orders stages."""


@dataclass(frozen=True)
class Survey:
    """The state of each stage of a plan by name, the stages that have to run, and their expected seconds."""

    states: dict[str, str]
    todo: list[Node]
    expected: dict[str, float | None]


def survey(
    plan: Plan,
    root: Path,
    until: str | None = None,
    force: str | None = None,
    targets: Sequence[Node] = (),
    redone: frozenset[str] = frozenset(),
) -> Survey:
    """Find which stages have to run for `targets`; default: the last stage, or those that `until` names.

    An artefact that was deleted is rebuilt only if a stage that has to run needs it. An artefact that is
    damaged, stale (built from an input whose content has changed since) or incomplete (its stage could add to
    it with the settings of today) is always rebuilt. `force` reruns the matching stages and all that depend
    on them, but not those whose hash is in `redone`.
    """
    targets = targets or (plan.matching(until) if until else plan.nodes[-1:])
    needed = _closure(targets, lambda node: node.parents())
    forced = set(plan.matching(force)) if force else set()
    states: dict[str, str] = {}
    roots: dict[str, str] = {}
    for node in plan.nodes:
        if not forced.isdisjoint(node.parents()):
            forced.add(node)
        again = node in forced and node.hash not in redone
        states[node.name] = "forced" if again else _state(node, plan, root, roots)
    rerun = [n for n in needed if states[n.name].startswith(("damaged", "stale", "incomplete", "forced"))]
    ends = [n for n in (*targets, *rerun) if states[n.name] != "done"]
    todo = _closure(ends, lambda node: [n for n in node.parents() if states[n.name] != "done"])
    todo -= _premature(plan, todo)
    rates = _rates(root, {n.kind for n in plan.nodes})
    expected = {n.name: rates[n.rate_key] * n.work if n.rate_key in rates else None for n in plan.nodes}
    return Survey(states, [n for n in plan.nodes if n in todo], expected)


def _premature(plan: Plan, todo: set[Node]) -> set[Node]:
    """Nodes of `todo` with a finished input that may become stale, because something above it is rebuilt.

    They wait for the next survey; otherwise a comparison would run twice.
    """
    touched: set[Node] = set()
    premature: set[Node] = set()
    for node in plan.nodes:
        parents = list(node.parents())
        if node in todo and any(p in premature or (p in touched and p not in todo) for p in parents):
            premature.add(node)
        if node in todo or not touched.isdisjoint(parents):
            touched.add(node)
    return premature


def refuse_unrunnable(plan: Plan, until: str | None = None) -> None:
    """Raises RecipeError if a stage that is needed cannot run as planned, before anything is computed."""
    targets = plan.matching(until) if until else plan.nodes[-1:]
    needed = _closure(targets, lambda node: node.parents())
    for node in plan.nodes:
        if node in needed and (reason := plan.refusals.get(node.kind)):
            raise RecipeError(f"{reason} (stage {node.name} cannot run)")


def _state(node: Node, plan: Plan, root: Path, roots: dict[str, str]) -> str:
    """State of one artefact.

    `roots` collects the root hashes of finished artefacts by stage hash, parents first.
    """
    path = store_path(root, node.kind, node.hash)
    state = store.check(path, node.hash)
    if state != "done":
        return state
    record = store.read_record(path)
    used = record.get("roots", {})
    for key, value in node.inputs.items():
        parents = [n for n in (value if isinstance(value, list) else [value]) if isinstance(n, Node)]
        then = used.get(key) if isinstance(value, list) else [used.get(key)]
        now = [roots.get(parent.hash) for parent in parents]
        if parents and (then is None or any(n and n != t for n, t in zip(now, then, strict=True))):
            return f"stale: the content of its input `{key}` has changed since"
    roots[node.hash] = store.read_done(path).root
    lack = plan.stages.incomplete(node.kind, node.config, record)
    return f"incomplete: {lack}" if lack else state


def finished_repetitions(plan: Plan, root: Path) -> int:
    """Number of repetitions of a comparison that are finished for every arm on every pool."""
    states = survey(plan, root).states
    runs = [n for n in plan.nodes if n.kind == "evaluate"]
    # The report itself looks for leaks; what its costs are counted of is above the selections and trainings.
    inputs = {key: value for key, value in plan.nodes[-1].inputs.items() if key not in ("leaks", "costed")}
    parents = replace(plan.nodes[-1], inputs=inputs).parents()
    unfinished = [n.repetition for n in parents if states[n.name] != "done"]
    # What comes before all repetitions has a negative number: while it is unfinished, none is finished.
    return max(0, min(unfinished, default=max(n.repetition for n in runs) + 1))


def _closure(start: Iterable[Node], above: Callable[[Node], Iterable[Node]]) -> set[Node]:
    reached: set[Node] = set()
    stack = list(start)
    while stack:
        if (node := stack.pop()) not in reached:
            reached.add(node)
            stack.extend(above(node))
    return reached


def _rates(root: Path, kinds: set[str]) -> dict[str, float]:
    """Mean seconds per unit of work by `Node.rate_key`, from the records of the artefacts in this store."""
    seconds: dict[str, float] = {}
    work: dict[str, float] = {}
    for kind in kinds:
        for record in _records(root / "store" / kind):
            key = rate_key(kind, record.get("config") or {})
            seconds[key] = seconds.get(key, 0.0) + record["seconds"]
            work[key] = work.get(key, 0.0) + record["work"]
    return {key: seconds[key] / total for key, total in work.items() if total}


def _records(folder: Path) -> Iterator[dict[str, Any]]:
    for mark in folder.glob("*/done.json"):
        with contextlib.suppress(store.Damaged):  # or another process is rewriting it right now
            yield store.read_record(mark.parent)


def root_of(loaded: Loaded) -> Path:
    """The directory that holds store/ and runs/."""
    return Path(loaded.recipe.root).expanduser().resolve()


def run(
    loaded: Loaded,
    plan: Plan,
    *,
    until: str | None = None,
    force: str | None = None,
    console: Console | None = None,
    on_stage: Callable[[Node, Outcome], None] | None = None,
) -> Path:
    """Run the stages that are not done yet and return the run directory.

    Where selections tell which controls are needed (`Plan.deciding`), these come first, and `plan` becomes
    what follows from them. `on_stage` is called in this process once for every finished stage of the plan:
    first for the cached ones, then for each new one as it finishes. Raises StageError, StoreError.
    """
    console, started = console or Console(), time.perf_counter()
    root = root_of(loaded)
    work = _Work(loaded, root, rundir.provenance(), console)
    place = rundir.open_run(loaded, plan, root)
    book = _Book(plan, root, place, on_stage)
    try:
        if plan.deciding and _beyond_selection(plan, until):
            work.settle(plan, book, force)
            rundir.open_run(loaded, plan, root)
        work.finish(plan, book, until=until, force=force)
    except StageError as error:
        if hint := controls.switch(error.stage):
            raise StageError(error.stage, f"{error.error}; {hint}", error.details) from error
        raise
    except Stopped as stopped:
        book.enter_unreported()
        stopped.kept = f": {len(book.outcomes)} of {len(plan.nodes)} stages are finished and kept"
        raise
    finally:
        book.show(console, time.perf_counter() - started)
        book.save()
    if plan.nodes[-1].name in book.outcomes:
        rundir.publish_report(place, root, plan)
        rundir.write_lineage(place, loaded, plan, root)
    return place


def _beyond_selection(plan: Plan, until: str | None) -> bool:
    """Whether a stage is wanted that some control may turn out not to need."""
    trained = {"train", "answer", "judge", "evaluate", "compare"}
    return until is None or not trained.isdisjoint(node.kind for node in plan.matching(until))


@dataclass(frozen=True)
class _Work:
    """What every stage of one run is run with."""

    loaded: Loaded
    root: Path
    provenance: dict[str, Any]
    console: Console
    redone: set[str] = field(default_factory=set)
    """Hashes of the stages that this run has run: what is forced is forced once."""

    def settle(self, plan: Plan, book: "_Book", force: str | None) -> None:
        """Run the selections that tell which controls are needed; `plan` becomes what follows from them."""
        say = f"{len(plan.deciding)} selections come first: they tell which controls are needed"
        self._say(f"{self.loaded.recipe.name}: {say}")
        self.finish(plan, book, force=force, targets=plan.deciding)
        plan.settle()
        for line in in_words(plan.settled):
            self._say(line)
        book.follow(plan)

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False, soft_wrap=True)

    def finish(
        self,
        plan: Plan,
        book: "_Book",
        *,
        until: str | None = None,
        force: str | None = None,
        targets: Sequence[Node] = (),
    ) -> None:
        """Run what is not done yet of a plan, until nothing is left that has changed meanwhile."""
        present = survey(plan, self.root, until, force, targets, frozenset(self.redone))
        book.enter_cached(present)
        counts = f"{len(plan.nodes)} stages, {len(book.outcomes)} cached, {len(present.todo)} to run"
        self._say(f"{self.loaded.recipe.name}: {counts}")
        while present.todo:
            _announce_rebuilds(present, self.console)
            with display(self.console, present.expected, book.enter) as shown:
                _execute(present, self.root, plan, self.provenance, shown, self.loaded.recipe.resources)
            self.redone.update(node.hash for node in present.todo)
            # Again, because a rebuilt artefact may differ from what its finished children were built from.
            present = survey(plan, self.root, until, targets=targets)


def _announce_rebuilds(present: Survey, console: Console) -> None:
    for node in present.todo:
        if (state := present.states[node.name]).startswith(("damaged", "stale", "incomplete")):
            console.print(f"{node.name}: {state}; rebuilding it", markup=False, soft_wrap=True)


def _execute(
    present: Survey,
    root: Path,
    plan: Plan,
    provenance: dict[str, Any],
    shown: PlainDisplay,
    resources: Resources,
) -> None:
    todo, states = present.todo, present.states
    tasks = {
        n.name: task_of(n, root, plan, provenance, force=states[n.name].startswith(("forced", "incomplete")))
        for n in todo
    }
    parents = {n.name: {p.name for p in n.parents() if p.name in tasks} for n in todo}
    seconds = {n.name: present.expected[n.name] or n.work * UNKNOWN_RATE for n in todo}
    schedule = Schedule(tasks, parents, seconds, {n.name: n.repetition for n in todo})
    if resources.executor == "pool":
        run_pool(schedule, shown, resources.workers)
    else:
        run_inline(schedule, shown)


def task_of(node: Node, root: Path, plan: Plan, provenance: dict[str, Any], *, force: bool = False) -> Task:
    """The node as a task that any process can perform: inputs as paths instead of nodes."""

    def place(value: Any) -> Any:
        return store_path(root, value.kind, value.hash) if isinstance(value, Node) else value.path

    return Task(
        kind=node.kind,
        family=node.family,
        name=node.name,
        hash=node.hash,
        config=node.config,
        inputs={
            k: [place(n) for n in v] if isinstance(v, list) else place(v) for k, v in node.inputs.items()
        },
        parents=node.input_hashes(),
        out=store_path(root, node.kind, node.hash),
        work=node.work,
        stages=plan.stages,
        provenance=provenance,
        artefacts=frozenset(k for k, v in node.inputs.items() if _is_artefact(v)),
        force=force,
    )


def _is_artefact(value: Any) -> bool:
    """Whether an input is made by stages, not given from outside."""
    return all(isinstance(one, Node) for one in (value if isinstance(value, list) else [value]))


class _Book:
    """The outcomes so far; maintains the links and timings.json of the run directory."""

    def __init__(self, plan: Plan, root: Path, place: Path, on_stage: Callable[[Node, Outcome], None] | None):
        self.nodes = {n.name: n for n in plan.nodes}
        self.root, self.place, self.on_stage = root, place, on_stage
        self.outcomes: dict[str, Outcome] = {}
        self.wall = 0.0
        rundir.remove_old_links(place, plan)

    def follow(self, plan: Plan) -> None:
        """Go on with another plan of the same recipe."""
        self.nodes = {n.name: n for n in plan.nodes}
        self.outcomes = {name: o for name, o in self.outcomes.items() if name in self.nodes}
        rundir.remove_old_links(self.place, plan)

    def enter_cached(self, present: Survey) -> None:
        """Enter the stages that were done before this run."""
        for node in self.nodes.values():
            if present.states[node.name] == "done" and node.name not in self.outcomes:
                record = store.read_record(store_path(self.root, node.kind, node.hash))
                self.enter(Outcome(node.name, "cached", record["seconds"], record["summary"]))

    def enter_unreported(self) -> None:
        """Enter the stages that a worker finished but could not report before the run was stopped."""
        for node in self.nodes.values():
            path = store_path(self.root, node.kind, node.hash)
            if node.name not in self.outcomes and store.check(path, node.hash) == "done":
                record = store.read_record(path)
                self.enter(Outcome(node.name, "new", record["seconds"], record["summary"]))

    def enter(self, outcome: Outcome) -> None:
        node = self.nodes[outcome.name]
        self.outcomes[outcome.name] = outcome
        rundir.link(self.place, self.root, node)
        if self.on_stage:
            self.on_stage(node, outcome)

    def seconds_by_kind(self) -> dict[str, float]:
        """Sum over the stages of each kind; a cached stage counts with the seconds of its earlier run."""
        sums: dict[str, float] = {}
        for name, node in self.nodes.items():
            if name in self.outcomes:
                sums[node.family] = round(sums.get(node.family, 0.0) + self.outcomes[name].seconds, 3)
        return sums

    def show(self, console: Console, wall: float) -> None:
        """Print the table of stages and the seconds by kind."""
        self.wall = wall
        done = [self.outcomes[name] for name in self.nodes if name in self.outcomes]
        console.print(stage_table([(o.name, o.state, o.seconds) for o in done], "stages"), crop=False)
        console.print(
            "seconds by stage: " + ", ".join(f"{k} {s:.1f}" for k, s in self.seconds_by_kind().items()),
            markup=False,
            soft_wrap=True,
        )
        new = sum(o.seconds for o in done if o.state == "new")
        console.print(
            f"this run: {wall:.1f} s; its stages took {new:.1f} s in sum", markup=False, soft_wrap=True
        )

    def save(self) -> None:
        """Write timings.json."""
        store.write_json(
            self.place / "timings.json",
            {
                "wall_seconds": round(self.wall, 3),
                "seconds_by_kind": self.seconds_by_kind(),
                "stages": [
                    {
                        "name": name,
                        "kind": node.kind,
                        "state": self.outcomes[name].state,
                        "seconds": round(self.outcomes[name].seconds, 3),
                    }
                    for name, node in self.nodes.items()
                    if name in self.outcomes
                ],
            },
        )
