"""The real chain, small: it runs, it is cached, it survives kill -9 at many moments, and it counts what it drops.

Every run is forked from a server process that has imported torch, transformers and lmms-eval once.
"""

import json
import multiprocessing
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import killed_run
import pytest
from test_kill import contents, finished

pytest.importorskip("lmms_eval", reason="pip install 'winnow[eval]'")

HERE = Path(__file__).parent
TIMED = {
    "fit.log.jsonl",
    "report.md",
}  # they hold seconds, or sizes of files that do
SMALL = [
    "scale=smoke",
    "pool.size=120",
    "bench.items=2",
    "teacher.share=0.3",
    "track.wandb.mode=disabled",
    "arms.random.seeds=1",
    "arms.mmssr.seeds=1",
    "arms.full.seeds=1",
]
POINTS = (3, 30, 90, 150, 25, 25, 25, 25, 25, 25, 25, 25, 25, 25, 25, 25, 25, 25, 25, 25)
"""How many file-system changes each run is granted before it is killed; an odd one ends in the middle of a write."""


@dataclass
class Chain:
    """The recipe in processes of their own, forked from a warm server."""

    context: object

    def run(self, root: Path, *overrides: str, **environment: object) -> int:
        """Exit code; -9 after a kill. Output goes to `root`.log."""
        process = self.context.Process(
            target=_child, args=(root, list(overrides), {k: str(v) for k, v in environment.items()})
        )
        process.start()
        process.join()
        return process.exitcode


def _child(root: Path, overrides: list[str], environment: dict[str, str]) -> None:
    os.environ.update(environment)
    log = os.open(f"{root}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1), os.dup2(log, 2)
    sys.exit(
        killed_run.run(
            "recipes.stages", ["mmssr_30pct.yaml", *SMALL, f"root={root}", "--executor=inline", *overrides]
        )
    )


@pytest.fixture(scope="module")
def chain():
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "torch",
            "transformers",
            "training.fit",
            "evaluation.harness",
            "lmms_eval.evaluator",
            "lmms_eval.tasks",
        ]
    )
    return Chain(context)


@pytest.fixture(scope="module")
def calm_results(calm) -> dict[str, str]:
    """Every file of the undisturbed run that may not depend on time, before other tests add to its store."""
    return results(calm)


@pytest.fixture(scope="module")
def calm(chain, tmp_path_factory) -> Path:
    """A run that nothing disturbed."""
    root = tmp_path_factory.mktemp("chain") / "calm"
    assert chain.run(root) == 0, Path(f"{root}.log").read_text()[-3000:]
    return root


def results(root: Path) -> dict[str, str]:
    return {name: value for name, value in contents(root).items() if Path(name).name not in TIMED}


def test_the_chain_ends_in_a_report_of_what_it_did(calm, calm_results):
    assert len(calm_results) > 100
    run = calm / "runs" / "mmssr_30pct.smoke"
    report = (run / "report.md").read_text()
    for text in ("/FULL", "protocol: modified", "Spearman", "planted: leak", "blind", "chance"):
        assert text in report
    assert {p.name for p in run.glob("*.png")} == {
        "means.png",
        "differences.png",
        "benchmarks.png",
        "radar.png",
    }
    comparison = json.loads((run / "comparison.json").read_text())
    assert [arm["arm"] for arm in comparison["arms"]] == ["full", "random", "mmssr"]
    assert all(n == 2 for n in comparison["n"].values()) and len(comparison["n"]) == 14
    manifest = json.loads((run / "stages" / "select[mmssr,0]" / "manifest.json").read_text())
    assert manifest["budget"]["samples"] == 36 and set(manifest["signals"]) == {"capability", "style"}


def test_everything_is_cached_the_second_time(chain, calm):
    before = {p: p.stat().st_mtime_ns for p in (calm / "store").glob("*/*/done.json")}
    started = time.perf_counter()
    assert chain.run(calm) == 0
    assert time.perf_counter() - started < 20
    assert {p: p.stat().st_mtime_ns for p in (calm / "store").glob("*/*/done.json")} == before


def test_a_recipe_shares_its_random_arm_with_another(chain, calm):
    assert chain.run(calm, "name=other", "arms.mmssr.params.bins=source", "--until=select") == 0
    kinds = [p.parent.parent.name for p in (calm / "store").glob("*/*/done.json")]
    assert kinds.count("train") == 3 and kinds.count("select") == 4


def test_kill_at_many_points_and_resume(chain, calm_results, tmp_path):
    root, statuses, counts, marks = tmp_path / "killed", [], [], {}
    for granted in POINTS:
        statuses.append(chain.run(root, KILL_AT=granted))
        now = finished(root)
        written = {p: p.stat().st_mtime_ns for p in (root / "store").glob("*/*/done.json")}
        assert marks.items() <= written.items(), "a finished stage was lost or done again"
        counts, marks = [*counts, now], written
        if statuses[-1] == 0:
            break
    if statuses[-1] != 0:
        assert chain.run(root) == 0, Path(f"{root}.log").read_text()[-3000:]
    assert statuses.count(-signal.SIGKILL) >= 10
    kinds = {name.split("/")[0] for name in counts[-1]}
    assert (
        len({len(c) for c in counts}) >= 5 and {"fit_scorer", "select", "train"} <= kinds
    )  # the kills were spread over the chain
    assert results(root) == calm_results


def test_two_runs_at_once_do_each_stage_once(chain, tmp_path):
    root = tmp_path / "shared"
    arguments = (root, ["--until=signal_style"], {})
    pair = [chain.context.Process(target=_child, args=arguments) for _ in range(2)]
    for process in pair:
        process.start()
    for process in pair:
        process.join()
    assert [p.exitcode for p in pair] == [0, 0], Path(f"{root}.log").read_text()[-3000:]
    made = sorted(p.parent.parent.name for p in (root / "store").glob("*/*/done.json"))
    assert made == ["bench", "fit_styler", "labels", "pool", "signal_style", "source"]


def test_until_limit_and_modified_protocol(chain, calm, tmp_path):
    root = tmp_path / "limited"
    assert chain.run(root, "--limit=60", "--until=pool") == 0
    info = json.loads(next((root / "store" / "pool").glob("*/pool.json")).read_text())
    assert info["n"] == 60 and not (root / "store" / "labels").exists()
