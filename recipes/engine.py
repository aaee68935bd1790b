"""Bring the stages of a plan up to date: find what is done, run the rest, write the run directory."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from recipes import rundir, store
from recipes.errors import RecipeError
from recipes.executors import Schedule, run_inline, run_pool
from recipes.graph import Node, Plan, rate_key, store_path
from recipes.load import Loaded
from recipes.progress import PlainDisplay, display, stage_table
from recipes.schema import Resources
from recipes.stop import Stopped
from recipes.task import Outcome, Task

UNKNOWN_RATE = 1 / 200
"""Seconds for one unit of work where no earlier run of that kind is in the store: only for the order of stages."""


@dataclass(frozen=True)
class Survey:
    """What is in the store for a plan: the state of each node by name, and the nodes that have to run."""

    states: dict[str, str]
    todo: list[Node]
    expected: dict[str, float | None]


def survey(plan: Plan, root: Path, until: str | None = None, force: str | None = None) -> Survey:
    """Find what must run.

    An artefact that was deleted on purpose is not made again unless something new needs it. One that is damaged, or stale
    (made from an input that has other content now), always is. `force` redoes the matching stages and all that follow
    from them.
    """
    targets = plan.matching(until) if until else plan.nodes[-1:]
    needed = _closure(targets, lambda node: node.parents())
    forced = set(plan.matching(force)) if force else set()
    states: dict[str, str] = {}
    roots: dict[str, str] = {}
    for node in plan.nodes:
        if not forced.isdisjoint(node.parents()):
            forced.add(node)
        states[node.name] = "forced" if node in forced else _state(node, root, roots)
    redone = [n for n in needed if states[n.name].startswith(("damaged", "stale", "forced"))]
    ends = [n for n in (*targets, *redone) if states[n.name] != "done"]
    todo = _closure(ends, lambda node: [n for n in node.parents() if states[n.name] != "done"])
    todo -= _premature(plan, todo)
    rates = _rates(root, {n.kind for n in plan.nodes})
    expected = {n.name: rates[n.rate_key] * n.work if n.rate_key in rates else None for n in plan.nodes}
    return Survey(states, [n for n in plan.nodes if n in todo], expected)


def _premature(plan: Plan, todo: set[Node]) -> set[Node]:
    """Nodes to run that rest on a finished one which may turn out stale, because something above it is made again.

    They wait for the next survey; else a comparison would be made twice.
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
    """Raises RecipeError where a stage that is needed cannot run as planned, before anything is paid for."""
    targets = plan.matching(until) if until else plan.nodes[-1:]
    needed = _closure(targets, lambda node: node.parents())
    if blind := next(
        (n for n in plan.nodes if n in needed and n.kind == "evaluate" and "bench" not in n.inputs), None
    ):
        raise RecipeError(
            f"bench: missing; stage {blind.name} has no benchmarks to evaluate on: give a section `bench` (the mini world's "
            "items), or end before the evaluation with --until"
        )


def _state(node: Node, root: Path, roots: dict[str, str]) -> str:
    """State of one artefact. `roots` holds the root hashes of those that are done, by stage hash; parents come first."""
    path = store_path(root, node.kind, node.hash)
    state = store.check(path, node.hash)
    if state != "done":
        return state
    used = store.read_record(path).get("roots", {})
    for key, value in node.inputs.items():
        parents = [n for n in (value if isinstance(value, list) else [value]) if isinstance(n, Node)]
        then = used.get(key) if isinstance(value, list) else [used.get(key)]
        now = [roots.get(parent.hash) for parent in parents]
        if parents and (then is None or any(n and n != t for n, t in zip(now, then, strict=True))):
            return f"stale: its input `{key}` has other content than the one it was made from"
    roots[node.hash] = store.read_done(path).root
    return state


def finished_repetitions(plan: Plan, root: Path) -> int:
    """How many repetitions of a comparison are finished for every arm on every pool."""
    states = survey(plan, root).states
    runs = [n for n in plan.nodes if n.kind == "evaluate"]
    open_ = [n.repetition for n in plan.nodes[-1].parents() if states[n.name] != "done"]
    return min(open_, default=max(n.repetition for n in runs) + 1)


def _closure(start: Iterable[Node], above: Callable[[Node], Iterable[Node]]) -> set[Node]:
    found, stack = set(), list(start)
    while stack:
        if (node := stack.pop()) not in found:
            found.add(node)
            stack.extend(above(node))
    return found


def _rates(root: Path, kinds: set[str]) -> dict[str, float]:
    """Mean seconds for a unit of work by `Node.rate_key`, from the records of what this store holds."""
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
        with contextlib.suppress(store.Damaged):  # or being made again at this moment
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
    """Run what is not done yet and return the run directory.

    `on_stage` is called in this process for every stage of the plan that is ready: first for those that were cached,
    then for each new one as it finishes. Raises StageError, StoreError.
    """
    console, started = console or Console(), time.perf_counter()
    root = root_of(loaded)
    provenance = rundir.provenance()
    found = survey(plan, root, until, force)
    place = rundir.open_run(loaded, plan, root)
    book = _Book(plan, root, place, on_stage)
    for node in plan.nodes:
        if found.states[node.name] == "done":
            record = store.read_record(store_path(root, node.kind, node.hash))
            book.enter(Outcome(node.name, "cached", record["seconds"], record["summary"]))
    counts = f"{len(plan.nodes)} stages, {len(book.outcomes)} cached, {len(found.todo)} to run"
    console.print(f"{loaded.recipe.name}: {counts}", markup=False, soft_wrap=True)
    try:
        while found.todo:
            _say_what_is_redone(found, console)
            with display(console, found.expected, book.enter) as shown:
                _execute(found, root, plan, provenance, shown, loaded.recipe.resources)
            # What was made again may differ from what its finished children were made from.
            found = survey(plan, root, until)
    except Stopped as stopped:
        stopped.kept = f": {len(book.outcomes)} of {len(plan.nodes)} stages are finished and kept"
        raise
    finally:
        book.show(console, time.perf_counter() - started)
        book.save()
    if plan.nodes[-1].name in book.outcomes:
        rundir.publish_report(place, root, plan)
        rundir.write_lineage(place, loaded, plan, root)
    return place


def _say_what_is_redone(found: Survey, console: Console) -> None:
    for node in found.todo:
        if (state := found.states[node.name]).startswith(("damaged", "stale")):
            console.print(f"{node.name}: {state}; it is made again", markup=False, soft_wrap=True)


def _execute(
    found: Survey,
    root: Path,
    plan: Plan,
    provenance: dict[str, Any],
    shown: PlainDisplay,
    resources: Resources,
) -> None:
    tasks = {n.name: _task(n, root, plan, provenance, found.states[n.name] == "forced") for n in found.todo}
    parents = {n.name: {p.name for p in n.parents() if p.name in tasks} for n in found.todo}
    seconds = {n.name: found.expected[n.name] or n.work * UNKNOWN_RATE for n in found.todo}
    schedule = Schedule(tasks, parents, seconds, {n.name: n.repetition for n in found.todo})
    if resources.executor == "pool":
        run_pool(schedule, shown, resources.workers)
    else:
        run_inline(schedule, shown)


def _task(node: Node, root: Path, plan: Plan, provenance: dict[str, Any], force: bool) -> Task:
    def place(value: Any) -> Path:
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
        made=frozenset(k for k, v in node.inputs.items() if isinstance(v, list | Node)),
        force=force,
    )


class _Book:
    """Outcomes so far; keeps the links and timings.json of the run directory."""

    def __init__(self, plan: Plan, root: Path, place: Path, on_stage: Callable[[Node, Outcome], None] | None):
        self.nodes = {n.name: n for n in plan.nodes}
        self.root, self.place, self.on_stage = root, place, on_stage
        self.outcomes: dict[str, Outcome] = {}
        self.wall = 0.0
        rundir.remove_old_links(place, plan)

    def enter(self, outcome: Outcome) -> None:
        node = self.nodes[outcome.name]
        self.outcomes[outcome.name] = outcome
        rundir.link(self.place, self.root, node)
        if self.on_stage:
            self.on_stage(node, outcome)

    def seconds_by_kind(self) -> dict[str, float]:
        """Sum over the stages of each kind, cached ones with the seconds that they once took."""
        sums: dict[str, float] = {}
        for name, node in self.nodes.items():
            if name in self.outcomes:
                sums[node.family] = round(sums.get(node.family, 0.0) + self.outcomes[name].seconds, 3)
        return sums

    def show(self, console: Console, wall: float) -> None:
        """Print the table of stages and the seconds by kind."""
        self.wall = wall
        done = [self.outcomes[name] for name in self.nodes if name in self.outcomes]
        console.print(stage_table([(o.name, o.state, o.seconds) for o in done], "stages"))
        console.print(
            "seconds by stage: " + ", ".join(f"{k} {s:.1f}" for k, s in self.seconds_by_kind().items()),
            markup=False,
            soft_wrap=True,
        )
        new = sum(o.seconds for o in done if o.state == "new")
        console.print(
            f"this run: {wall:.1f} s, in which stages worked {new:.1f} s", markup=False, soft_wrap=True
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
