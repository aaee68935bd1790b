"""SIGINT, SIGTERM and SIGHUP end a run and its child processes within five seconds, with a message."""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from processes import DUMMY_RUN, alive, environment, wait_for

from recipes import engine
from recipes.code import Stages
from recipes.executors import StageProgress
from recipes.load import load
from recipes.plan import make_plan
from recipes.stop import Stopped
from recipes.store import check, read_done
from recipes.task import perform

pytestmark = pytest.mark.slow


def start(project: Path, *arguments: str, before: Sequence[Path] = (), **variables: str) -> subprocess.Popen:
    """Start a run in a session of its own, as a terminal does; `before` comes first on PYTHONPATH."""
    return subprocess.Popen(
        [sys.executable, "-c", DUMMY_RUN, "demo.yaml", *arguments],
        cwd=project,
        env=environment(*before, DUMMY_PIDS=str(project / "pids"), **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def pids(project: Path) -> list[int]:
    return [int(pid) for pid in (project / "pids").read_text().split()] if (project / "pids").exists() else []


def finished(project: Path) -> list[Path]:
    return list((project / "store").glob("*/*/done.json"))


@pytest.mark.parametrize("executor", ["inline", "pool"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
def test_a_signal_ends_all_processes_within_five_seconds(project, executor, number):
    """A slow stage and its child process end too, and the finished stages are kept."""
    process = start(project, f"--executor={executor}", DUMMY_SLOW="labels", DUMMY_SECONDS="60")
    wait_for(lambda: any((project / "store" / "labels").glob("*/begun.json")) and len(pids(project)) >= 8)
    begun = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - begun < 5
    assert process.returncode == 128 + number
    done = len(finished(project))
    assert (
        done >= 3
        and f"stopped by {number.name}: {done} of 32 stages are finished and kept; run the same command"
        in err
    )
    assert "Traceback" not in err
    started = pids(project)
    wait_for(lambda: not any(alive(pid) for pid in started if pid != process.pid), 3)


def test_a_stage_that_its_worker_could_not_report_any_more_counts_as_finished(project, monkeypatch):
    """It may finish between the last report and the end of its process."""

    def stopped_before_the_last_report(schedule, display):
        for reports in (True, True, False):
            task = schedule.next()
            outcome = perform(task, StageProgress(task.name, display))
            if reports:
                display.finish(outcome)
            schedule.finished(task.name)
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr(engine, "run_inline", stopped_before_the_last_report)
    loaded = load("demo.yaml", ["resources.executor=inline"])
    told = []
    with pytest.raises(Stopped, match="stopped by SIGTERM: 3 of 32 stages are finished and kept"):
        engine.run(
            loaded, make_plan(loaded, Stages("dummy_stages")), on_stage=lambda node, _: told.append(node.name)
        )
    assert len(finished(project)) == len(told) == 3


def test_a_stopped_run_resumes(project, executed):
    process = start(project, "--executor=pool", DUMMY_SLOW="labels", DUMMY_SECONDS="60")
    wait_for(lambda: any((project / "store" / "labels").glob("*/begun.json")))
    process.terminate()
    process.communicate(timeout=30)
    kept = {mark: mark.stat().st_mtime_ns for mark in finished(project)}
    again = start(project, "--executor=pool")
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert {mark: mark.stat().st_mtime_ns for mark in kept} == kept
    assert f"32 stages, {len(kept)} cached" in out
    assert all(check(mark.parent, read_done(mark.parent).hash) == "done" for mark in finished(project))


def test_a_stopped_run_does_not_wait_for_a_tracker(project, tmp_path):
    """Usually wandb's process has a minute to finish its uploads."""
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "wandb.py").write_text(
        "import time\ndef init(**_): time.sleep(600)\nclass Error(Exception): ...\ndef Settings(**_): ...\n"
    )
    (project / "demo.yaml").write_text(
        (project / "demo.yaml").read_text().replace("mode: disabled", "mode: offline")
    )
    process = start(project, before=[tmp_path / "fake"], DUMMY_SLOW="labels", DUMMY_SECONDS="60")
    wait_for(lambda: any((project / "store" / "labels").glob("*/begun.json")))
    begun = time.monotonic()
    process.terminate()
    process.communicate(timeout=30)
    assert time.monotonic() - begun < 5 and process.returncode == 143


def test_a_second_signal_does_not_interrupt_the_clean_up(project):
    process = start(project, "--executor=pool", DUMMY_SLOW="labels", DUMMY_SECONDS="60")
    wait_for(lambda: any((project / "store" / "labels").glob("*/begun.json")) and pids(project))
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in err
    wait_for(lambda: not any(alive(pid) for pid in pids(project)), 3)
