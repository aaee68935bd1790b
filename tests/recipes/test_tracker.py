"""A tracker may be missing, unreachable or blocked: the run continues with a single warning."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recipes.errors import RecipeError, StageError, StoreError
from recipes.tracking.contract import Artifact, RunInfo
from recipes.tracking.tracker import Tracker

INFO = RunInfo("experiment-1", "demo", "experiment", "winnow", "group", tags=("scale:mini",))


@pytest.fixture
def wandb_home(monkeypatch, tmp_path):
    pytest.importorskip("wandb")
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_ARTIFACT_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb-home"))


def _fake_wandb(folder: Path, body: str, monkeypatch) -> None:
    """Put a module `wandb` with this body first on the worker's PYTHONPATH."""
    (folder / "fake").mkdir()
    (folder / "fake" / "wandb.py").write_text(
        "class Error(Exception): ...\nclass Settings:\n    def __init__(self, **k): ...\n" + body
    )
    monkeypatch.setenv("PYTHONPATH", str(folder / "fake"))


def started(tmp_path: Path, mode: str = "offline", backends=("wandb",), info: RunInfo = INFO, **options):
    """(tracker that knows a run, list of its warnings)"""
    warnings: list[str] = []
    tracker = Tracker.start(backends, mode, folder=tmp_path / "tracking", say=warnings.append, **options)
    tracker.open(info)
    return tracker, warnings


@pytest.mark.slow
def test_an_unreachable_server_takes_seconds_and_the_run_is_kept_offline(wandb_home, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    start = time.monotonic()
    tracker, warnings = started(tmp_path, "online", seconds=3)
    tracker.log(INFO.id, {"stages/finished": 1}, step=1)
    assert time.monotonic() - start < 2, "start and log must not wait"
    (status,) = tracker.finish()
    assert (status.mode, status.requested, status.ok) == ("offline", "online", False), status
    assert status.path == tmp_path / "tracking" / "wandb"
    (record,) = status.path.glob("offline-run-*/*.wandb")
    assert b"stages/finished" in record.read_bytes()
    assert (
        len(warnings) == 1
        and "wandb sync" in warnings[0]
        and "The run continues" in warnings[0]
        and "timed out" in warnings[0]
    )
    assert time.monotonic() - start < 100, "seconds, mostly imports on a slow machine"


def test_disabled_starts_nothing(tmp_path):
    code = (
        "import sys; from pathlib import Path; from recipes.tracking.tracker import Tracker; "
        "t = Tracker.start(['wandb', 'jsonl'], 'disabled', folder=Path(sys.argv[1])); "
        "t.log('x', {'a': 1.0}, 1); t.figures('x', []); "
        "assert not t.on and t.finish() == [] and 'wandb' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=Path(__file__).parents[2])
    assert not list(tmp_path.iterdir())


def test_missing_wandb_is_one_warning_and_the_other_backend_goes_on(tmp_path, monkeypatch):
    _fake_wandb(tmp_path, "raise ImportError('not here')", monkeypatch)
    tracker, warnings = started(tmp_path, backends=("wandb", "jsonl"))
    tracker.log(INFO.id, {"stages/finished": 1}, step=1)
    tracker.summary(INFO.id, {"a/mean": 1.0})
    statuses = {status.backend: status for status in tracker.finish()}
    assert len(warnings) == 1 and "winnow[track]" in warnings[0]
    assert (statuses["wandb"].mode, statuses["wandb"].ok, statuses["jsonl"].ok) == ("disabled", False, True)
    assert (tmp_path / "tracking/jsonl/experiment-1.jsonl").is_file()


def test_a_failure_during_the_run_is_one_warning(tmp_path, monkeypatch):
    _fake_wandb(
        tmp_path,
        "class Run:\n    def log(self, v, step): raise Error('disk full')\ndef init(**k): return Run()\n",
        monkeypatch,
    )
    tracker, warnings = started(tmp_path)
    for k in range(50):
        tracker.log(INFO.id, {"stages/finished": k}, step=k)
        time.sleep(0.02)
    (status,) = tracker.finish()
    assert len(warnings) == 1 and "disk full" in warnings[0] and "disk full" in status.detail


def test_an_unexpected_failure_of_the_process_is_logged(tmp_path, monkeypatch):
    body = "class Run:\n    def log(self, v, step): 1 / 0\ndef init(**k): return Run()\n"
    _fake_wandb(tmp_path, body, monkeypatch)
    tracker, warnings = started(tmp_path)
    tracker.log(INFO.id, {"stages/finished": 1}, step=1)
    (status,) = tracker.finish()
    assert not status.ok and len(warnings) == 1 and "worker.log" in warnings[0]
    assert "ZeroDivisionError" in (tmp_path / "tracking/wandb/worker.log").read_text()


def test_an_online_process_that_fails_unexpectedly_is_told_everything_again_offline(tmp_path, monkeypatch):
    """As when wandb's own service crashes, which raises what is not an error of wandb's."""
    body = (
        "class Run:\n    def __init__(self, mode): self.mode = mode\n"
        "    def log(self, v, step):\n        if self.mode == 'online': 1 / 0\n"
        f"        print(v, step, file=open({str(tmp_path / 'kept')!r}, 'a'))\n"
        "    def finish(self, exit_code): ...\ndef init(**k): return Run(k['mode'])\n"
    )
    _fake_wandb(tmp_path, body, monkeypatch)
    tracker, warnings = started(tmp_path, "online")
    tracker.log(INFO.id, {"stages/finished": 1}, step=1)
    tracker.log(INFO.id, {"stages/finished": 2}, step=2)
    (status,) = tracker.finish()
    assert (status.mode, status.requested) == ("offline", "online") and "worker.log" in status.detail
    assert len(warnings) == 1 and "wandb sync --append" in warnings[0]
    assert (tmp_path / "kept").read_text().splitlines() == [
        "{'stages/finished': 1} 1",
        "{'stages/finished': 2} 2",
    ]


@pytest.mark.slow
def test_a_blocked_upload_is_aborted(tmp_path, monkeypatch):
    pid = tmp_path / "pid"
    _fake_wandb(
        tmp_path,
        "import time, subprocess\n"
        "child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        f"open({str(pid)!r}, 'w').write(str(child.pid))\n"
        "class Run:\n    def log(self, v, step): ...\n    def finish(self, exit_code): time.sleep(600)\n"
        "def init(**k): return Run()\n",
        monkeypatch,
    )
    start = time.monotonic()
    tracker, warnings = started(tmp_path)
    tracker.log(INFO.id, {"stages/finished": 1}, step=1)
    (status,) = tracker.finish(seconds=5)
    assert time.monotonic() - start < 20 and "not finished within 5 s" in status.detail and len(warnings) == 1
    state, deadline = Path(f"/proc/{pid.read_text()}/status"), time.monotonic() + 10
    while state.exists() and "zombie" not in state.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert time.monotonic() < deadline, "wandb's background process must be killed too"


SECRET = "http://bob:PASSW0RD@127.0.0.1:9/v1?api-key=QUERYKEY"
KEY = 'sk-"planted"-0123456789'
RECORDING = """
import json
class Run:
    def log(self, value, step): print(value, file=open({folder!r} + "/logged", "a"))
    def finish(self, exit_code): ...
    def log_artifact(self, artifact): ...
class Artifact:
    def __init__(self, name, type, metadata): ...
    def add_file(self, path, name): print(open(path).read(), file=open({folder!r} + "/logged", "a"))
    def add_reference(self, uri, name, checksum): ...
def init(**k):
    seen = {{"config": k["config"], "argv": open("/proc/self/cmdline").read()}}
    json.dump(seen, open({folder!r} + "/init", "w"))
    return Run()
"""


def test_a_recipe_of_any_length_is_passed_and_no_secret_with_it(tmp_path, monkeypatch):
    """Neither those of URLs nor the values of variables that hold keys, in options, steps and files."""
    monkeypatch.setenv("MY_JUDGE_API_KEY", KEY)
    _fake_wandb(tmp_path, RECORDING.format(folder=str(tmp_path)), monkeypatch)
    config = {"long": "x" * 1_000_000, "server": {"url": SECRET, "note": f"see {SECRET} {KEY}"}}
    (tmp_path / "report.md").write_text(f"# Report of {SECRET} with {KEY}\n")
    start = time.monotonic()
    tracker, warnings = started(tmp_path, info=RunInfo("a", "a", "experiment", "p", "g", config=config))
    tracker.log("a", {f"stage of {SECRET} {KEY}": 1.0}, step=1)
    tracker.artifact("a", Artifact("report", "report", {"report.md": tmp_path / "report.md"}))
    assert time.monotonic() - start < 2
    assert tracker.finish()[0].ok and not warnings
    seen = json.loads((tmp_path / "init").read_text())
    assert seen["config"]["long"] == config["long"] and len(seen["argv"]) < 1000
    assert seen["config"]["server"]["url"] == "http://***@127.0.0.1:9/v1?***"
    logged = (tmp_path / "logged").read_text()
    assert "# Report of http://***@127.0.0.1:9/v1?*** with ***" in logged
    for text in [seen["argv"], json.dumps(seen["config"]), logged]:
        assert not any(secret in text for secret in ("bob", "PASSW0RD", "QUERYKEY", "planted"))


def test_an_error_that_quotes_a_url_is_masked(tmp_path, monkeypatch):
    _fake_wandb(tmp_path, f"def init(**k): raise Error('no connection to {SECRET}')\n", monkeypatch)
    tracker, warnings = started(tmp_path)
    tracker.log(INFO.id, {"stages/finished": 1}, step=1)
    (status,) = tracker.finish()
    assert "no connection to http://***@127.0.0.1:9/v1?***" in status.detail and "PASSW0RD" not in warnings[0]


def test_a_worker_that_reads_nothing_blocks_nobody(tmp_path, monkeypatch):
    _fake_wandb(tmp_path, "import time\ntime.sleep(600)\n", monkeypatch)
    start = time.monotonic()
    tracker, warnings = started(tmp_path)
    for _ in range(20):
        tracker.summary(INFO.id, {"long": "x" * 100_000})  # far more than a pipe holds
    assert time.monotonic() - start < 2
    (status,) = tracker.finish(seconds=3)
    assert time.monotonic() - start < 15 and "not finished within 3 s" in status.detail and len(warnings) == 1


def test_a_place_that_cannot_be_written_or_a_process_that_cannot_start_is_a_warning(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for folder, name in ((tmp_path / "file" / "run", sys.executable), (tmp_path / "run", "/no/such/python")):
        monkeypatch.setattr(sys, "executable", name)
        tracker, warnings = started(folder)
        tracker.log(INFO.id, {"stages/finished": 1}, step=1)
        (status,) = tracker.finish()
        assert status.mode == "disabled" and len(warnings) == 1 and "The run continues" in warnings[0]


def test_errors_of_recipes_show_no_secret():
    import pickle

    errors = [
        RecipeError(f"got '{SECRET}'"),
        StoreError(f"cannot write {SECRET}"),
        StageError("labels_api", f"no {SECRET}", f"Traceback {SECRET}"),
    ]
    for error in [*errors, *map(pickle.loads, map(pickle.dumps, errors))]:
        assert "http://***@127.0.0.1:9/v1?***" in str(error)
        text = f"{error} {error.args} {vars(error)}"
        assert not any(secret in text for secret in ("bob", "PASSW0RD", "QUERYKEY"))
