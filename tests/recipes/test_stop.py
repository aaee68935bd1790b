"""SIGINT, SIGTERM and SIGHUP end a run and all that it started within five seconds, and say what is kept."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recipes import closure
from recipes.store import check

SCRIPT = "import sys; from recipes.run import main; sys.exit(main(sys.argv[1:], package='dummy_stages'))"


def start(project: Path, *arguments: str, **environment: str) -> subprocess.Popen:
    """A run in a session of its own, as a terminal starts it, whose third stage takes a minute."""
    paths = os.pathsep.join([str(closure.REPOSITORY), str(Path(__file__).parent)])
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "demo.yaml", *arguments],
        cwd=project,
        env={**os.environ, "PYTHONPATH": paths, "DUMMY_PIDS": str(project / "pids"), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(condition, seconds=40.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def pids(project: Path) -> list[int]:
    return [int(pid) for pid in (project / "pids").read_text().split()] if (project / "pids").exists() else []


def finished(project: Path) -> list[Path]:
    return list((project / "store").glob("*/*/done.json"))


@pytest.mark.parametrize("executor", ["inline", "pool"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
def test_a_signal_ends_everything_in_five_seconds(project, executor, number):
    """The slow stage and the program that it started end too, and the finished stages stay."""
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
        and f"stopped by {number.name}: {done} of 24 stages are finished and kept; the same command" in err
    )
    assert "Traceback" not in err
    started = pids(project)
    wait_for(lambda: not any(alive(pid) for pid in started if pid != process.pid), 3)


def test_a_stopped_run_goes_on(project, executed):
    process = start(project, "--executor=pool", DUMMY_SLOW="labels", DUMMY_SECONDS="60")
    wait_for(lambda: any((project / "store" / "labels").glob("*/begun.json")))
    process.terminate()
    process.communicate(timeout=30)
    kept = {mark: mark.stat().st_mtime_ns for mark in finished(project)}
    again = start(project, "--executor=pool")
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert {mark: mark.stat().st_mtime_ns for mark in kept} == kept
    assert f"24 stages, {len(kept)} cached" in out
    assert all(check(mark.parent, _hash(mark)) == "done" for mark in finished(project))


def _hash(mark: Path) -> str:
    import json

    return json.loads(mark.read_text())["hash"]


def test_a_tracker_that_hangs_is_not_waited_for(project, tmp_path):
    """wandb's process may take a minute to say goodbye; a stopped run does not give it that."""
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "wandb.py").write_text(
        "import time\ndef init(**_): time.sleep(600)\nclass Error(Exception): ...\n"
    )
    (project / "demo.yaml").write_text(
        (project / "demo.yaml").read_text().replace("mode: disabled", "mode: offline")
    )
    paths = os.pathsep.join([str(tmp_path / "fake"), str(closure.REPOSITORY), str(Path(__file__).parent)])
    process = start(project, DUMMY_SLOW="labels", DUMMY_SECONDS="60", PYTHONPATH=paths)
    wait_for(lambda: any((project / "store" / "labels").glob("*/begun.json")))
    begun = time.monotonic()
    process.terminate()
    process.communicate(timeout=30)
    assert time.monotonic() - begun < 5 and process.returncode == 143


def test_a_second_signal_does_not_interrupt_the_cleaning_up(project):
    process = start(project, "--executor=pool", DUMMY_SLOW="labels", DUMMY_SECONDS="60")
    wait_for(lambda: any((project / "store" / "labels").glob("*/begun.json")) and pids(project))
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in err
    wait_for(lambda: not any(alive(pid) for pid in pids(project)), 3)
