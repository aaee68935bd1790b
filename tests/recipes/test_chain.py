"""The real chain at a small size: results, caching, sharing, and SIGKILL at a hundred points.

Every run is forked from a server process that has imported torch and transformers once.
"""

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from killed import contents, killed, run_silently, spread

from curation.taxonomy import CAPABILITY_KEYS
from evaluation.experiment import FILES

pytest.importorskip("lmms_eval", reason="pip install 'winnow[eval]'")

pytestmark = pytest.mark.slow

SMALL = [
    "mmssr_30pct.yaml",
    "scale=smoke",
    "pool.size=120",
    "bench.items=2",
    "teacher.share=0.3",
    "track.mode=disabled",
    "train.save_steps=2",
    "arms.random.seeds=1",
    "arms.mmssr.seeds=1",
    "arms.full.seeds=1",
    "controls=off",
    "--executor=inline",
]
REPOSITORY = Path(__file__).parents[2]
PRELOAD = ["killed", "warm_chain"]
POINTS = 115
"""More than the hundred that must be reached: a resumed stage does not reach all of its points again."""


@dataclass
class Chain:
    """Runs the recipe in processes that are forked from a warm server."""

    context: Any

    def start(self, root: Path, *arguments: str, kill: str | None = None) -> Any:
        log = Path(f"{root}.log")
        command = ("recipes.stages", [*SMALL, f"root={root}", *arguments], log, kill)
        process = self.context.Process(target=_child, args=command)
        process.start()
        return process

    def run(self, root: Path, *arguments: str, kill: str | None = None) -> int:
        """Exit code; -9 after a kill. Output goes to `root`.log."""
        process = self.start(root, *arguments, kill=kill)
        process.join()
        return process.exitcode


def _child(*command: Any) -> None:
    sys.exit(run_silently(*command))


@pytest.fixture(scope="module")
def chain():
    patch = pytest.MonkeyPatch()
    patch.setenv("OMP_NUM_THREADS", "1")
    # The server looks for the modules to preload on this path only, and silently skips missing ones.
    patch.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests" / "support")]))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    yield Chain(context)
    patch.undo()


@pytest.fixture(scope="module")
def points(chain, tmp_path_factory) -> tuple[Path, list[str]]:
    """(root of an undisturbed run, the kill points that it reached in order)."""
    folder = tmp_path_factory.mktemp("chain")
    root, listed = folder / "calm", folder / "points.txt"
    assert chain.run(root, kill=f"list:{listed}") == 0, Path(f"{root}.log").read_text()[-3000:]
    return root, list(dict.fromkeys(listed.read_text().splitlines()))


@pytest.fixture(scope="module")
def calm(points) -> Path:
    return points[0]


@pytest.fixture(scope="module")
def calm_results(calm) -> dict[str, str]:
    """Every file of the undisturbed run that must not depend on time, before other tests add to its store."""
    return contents(calm)


def test_the_chain_ends_in_a_report(calm, calm_results):
    assert len(calm_results) > 100
    run = calm / "runs" / "mmssr_30pct.smoke"
    report = (run / "report.md").read_text()
    for text in ("/FULL", "protocol: modified", "Spearman", "planted: leak", "blind", "chance"):
        assert text in report
    pictures = {"forest", "benchmarks", "means", "overlap", "style_map", "cost"}
    assert {p.name for p in (run / "figures").iterdir()} == {
        f"{name}.{form}" for name in pictures for form in ("svg", "pdf", "png")
    }
    assert (run / "report.html").is_file() and (run / "tables" / "all.tex").is_file()
    assert all((run / name).is_file() for name in FILES), "what all of these are made from"
    comparison = json.loads((run / "comparison.json").read_text())
    tasks = {benchmark["name"] for benchmark in comparison["suite"]["benchmarks"]}
    assert len(tasks) == len(CAPABILITY_KEYS)
    assert [arm["arm"] for arm in comparison["arms"]] == ["full", "random", "mmssr"]
    assert all(n == 2 for n in comparison["n"].values()) and set(comparison["n"]) == tasks
    manifest = json.loads((run / "stages" / "select[mmssr,0]" / "manifest.json").read_text())
    assert manifest["budget"]["samples"] == 36 and set(manifest["signals"]) == {"capability", "style"}


def test_a_second_run_is_cached(chain, calm):
    before = {p: p.stat().st_mtime_ns for p in (calm / "store").glob("*/*/done.json")}
    started = time.perf_counter()
    assert chain.run(calm) == 0
    assert time.perf_counter() - started < 20
    assert {p: p.stat().st_mtime_ns for p in (calm / "store").glob("*/*/done.json")} == before


def test_two_recipes_share_their_random_arm(chain, calm):
    assert chain.run(calm, "name=other", "arms.mmssr.params.bins=source", "--until=select") == 0
    kinds = [p.parent.parent.name for p in (calm / "store").glob("*/*/done.json")]
    assert kinds.count("train") == 3 and kinds.count("select") == 4


INSIDE = (
    "step",
    "before save",
    "inside save",
    "before mark",
    "inside checkpoint",
    "before complete",
    "answers",
)
"""Kill points inside a training, inside the saving of its state and checkpoint, and inside an evaluation."""


@pytest.mark.timeout(2400)  # a hundred runs: six minutes on two quiet cores
def test_kill_at_a_hundred_points_and_resume(chain, points, calm_results, tmp_path):
    """Runs in one store are killed again and again; all results equal those of the undisturbed run."""
    chosen = kill_points(points[1])
    root, marks, deaths = tmp_path / "killed", {}, []
    for point in chosen:
        stage = point.split("/")[0]
        # --until: a run that does not reach its point must not go beyond the stage
        until = [] if stage == "start" else [f"--until={stage}"]
        if killed(chain.run(root, *until, kill=point)):
            deaths.append(point)
        written = {p: p.stat().st_mtime_ns for p in (root / "store").glob("*/*/done.json")}
        assert marks.items() <= written.items(), f"a finished stage was lost or ran again after {point}"
        marks = written
    assert len(set(deaths)) >= 100, f"{len(set(deaths))} deaths"
    assert {p.split("/")[1] for p in deaths} >= {
        *INSIDE,
        "begin",
        "written",
        "recorded",
        "before rename",
        "after rename",
    }
    assert {p.partition("[")[0].split("/")[0] for p in deaths} >= {
        "pool",
        "fit_rater",
        "select",
        "train",
        "answer",
        "evaluate",
    }
    assert chain.run(root) == 0, Path(f"{root}.log").read_text()[-3000:]
    assert contents(root) == calm_results


def kill_points(reached: Sequence[str]) -> list[str]:
    """All points inside trainings and evaluations, their last steps, and others spread over the chain."""
    first = [point for point in reached if point.endswith("/1")]
    inside = {point for point in first if point.split("/")[1] in INSIDE}
    steps = {point.split("/")[0]: point for point in reached if "/step/" in point}
    others = [point for point in first if point not in inside]
    chosen = inside | set(steps.values())
    chosen |= set(spread(others, min(len(others), POINTS - len(chosen))))
    return [point for point in reached if point in chosen]


def test_two_concurrent_runs_do_each_stage_once(chain, tmp_path):
    root = tmp_path / "shared"
    pair = [chain.start(root, "--until=signal[style]") for _ in range(2)]
    for process in pair:
        process.join()
    assert [p.exitcode for p in pair] == [0, 0], Path(f"{root}.log").read_text()[-3000:]
    made = sorted(p.parent.parent.name for p in (root / "store").glob("*/*/done.json"))
    assert made == ["bench", "clean", "fit_rater", "labels", "pool", "signal", "source"]


def test_until_limit_and_modified_protocol(chain, calm, tmp_path):
    root = tmp_path / "limited"
    assert chain.run(root, "--limit=60", "--until=pool") == 0
    info = json.loads(next((root / "store" / "pool").glob("*/pool.json")).read_text())
    assert info["n"] == 60 and not (root / "store" / "labels").exists()
