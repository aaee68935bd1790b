"""What a recipe's run tells its trackers: stages as they finish, trainings while they run, the comparison."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.graph import Node, Plan, store_path
from recipes.load import Loaded
from recipes.stop import GRACE
from recipes.task import Outcome
from recipes.tracking import rows
from recipes.tracking.contract import Artifact
from recipes.tracking.tracker import FINISH_SECONDS, Tracker

if TYPE_CHECKING:
    from rich.console import Console

REPORT = ("report.md", "report.html", "comparison.json", "tables/*", "figures/*.svg")
"""Files of the last stage that make up the artifact `report`; none holds text of conversations."""


@contextmanager
def tracked(loaded: Loaded, plan: Plan, root: Path, console: "Console") -> Iterator[Callable[..., None]]:
    """A function to call for every finished stage; its failures, and those of trackers, stop no run.

    When the block ends without an error and the last stage is finished, the comparison follows.
    """
    settings, place = loaded.recipe.track, root / "runs" / loaded.recipe.name
    tracker = Tracker.start(settings.backends, settings.mode, folder=place / "tracking")
    if not tracker.on:
        yield _ignore
        _say(tracker, FINISH_SECONDS, console)
        return
    story = _Story(loaded, plan, root, tracker)
    seconds = FINISH_SECONDS
    try:
        yield story.stage
        story.end()
    except KeyboardInterrupt:
        seconds = GRACE  # a stopped run must not wait for uploads
        raise
    finally:
        _say(tracker, seconds, console)


def _ignore(node: Node, outcome: Outcome) -> None:
    """Nobody is told of a stage."""


def _say(tracker: Tracker, seconds: float, console: "Console") -> None:
    for status in tracker.finish(seconds):
        console.print(str(status), markup=False, soft_wrap=True)


class _Story:
    """Tells a tracker of one recipe's run."""

    def __init__(self, loaded: Loaded, plan: Plan, root: Path, tracker: Tracker) -> None:
        from recipes.rundir import provenance
        from recipes.tracking.describe import describe

        self.loaded, self.plan, self.root, self.tracker = loaded, plan, root, tracker
        runs = describe(loaded, plan, root, provenance()["commit"])
        self.run, self.finished = runs.experiment.id, set[str]()
        tracker.open(runs.experiment)
        for info, folder in runs.trainings:
            tracker.watch(info, folder)

    def stage(self, node: Node, outcome: Outcome) -> None:
        """A stage is finished."""
        self.finished.add(node.name)
        if outcome.state != "cached":
            values = {"stages/finished": len(self.finished), f"seconds/{node.family}": outcome.seconds}
            self.tracker.log(self.run, values, step=len(self.finished))

    def end(self) -> None:
        """If the last stage is finished: its tables, pictures and words, and the files behind them."""
        last, tracker = self.plan.nodes[-1], self.tracker
        if last.name not in self.finished:
            return
        out = self._place(last)
        tracker.final(self.run, last.hash)
        if (out / "comparison.json").is_file():
            self._comparison(json.loads((out / "comparison.json").read_text()))
        tracker.figures(self.run, sorted([*out.glob("*.png"), *out.glob("figures/*.png")]))
        files = {str(path.relative_to(out)): path for name in REPORT for path in sorted(out.glob(name))}
        about = {"stage_hash": last.hash}
        tracker.artifact(self.run, Artifact(f"report-{last.hash[:16]}", "report", files, about=about))
        self._subsets()
        tracker.complete(self.run, last.hash)

    def _comparison(self, comparison: dict[str, Any]) -> None:
        tables = {
            "comparison": rows.arms(comparison),
            "repetitions": rows.repetitions(comparison),
            "benchmarks": rows.benchmarks(comparison),
        }
        for name, (columns, lines) in tables.items():
            self.tracker.table(self.run, name, columns, lines)
        self.tracker.summary(self.run, rows.summary(comparison))

    def _subsets(self) -> None:
        """The manifest of every subset and where it lies; samples of it where the recipe asks for them."""
        selects = [node for node in self.plan.nodes if node.kind == "select"]
        if not selects:
            return
        manifests = {f"{node.name}/manifest.json": self._place(node) / "manifest.json" for node in selects}
        files = {name: path for name, path in manifests.items() if path.is_file()}
        references = {f"{node.name}/subset": self._place(node) for node in selects}
        name = f"subsets-{self.plan.nodes[-1].hash[:16]}"
        self.tracker.artifact(self.run, Artifact(name, "subset", files, references))
        if self.loaded.recipe.track.log_samples:
            for node in selects:
                pool = node.inputs["pool"]
                if node.repetition == 0 and isinstance(pool, Node):
                    table = f"samples/{node.name}"
                    self.tracker.samples(self.run, table, self._place(node), self._place(pool))

    def _place(self, node: Node) -> Path:
        return store_path(self.root, node.kind, node.hash)
