"""wandb may be missing, unreachable or blocked: the run continues with a single warning."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recipes.errors import RecipeError, StageError, StoreError
from recipes.tracker import Tracker
from recipes.wandb_worker import comparison_rows, training_steps

ARM = {
    "arm": "mmssr",
    "budget": "30%",
    "units": 3,
    "mean": {"mean": 50.0, "std": 1.0},
    "full": 90.0,
    "above": 9,
    "difference": {"value": 2.0, "low": 1.0, "high": 3.0},
    "benchmarks": {"t1": {"mean": 0.5, "std": 0.1}},
    "shuffled_mean": {"mean": 20.0, "std": None},
    "grounded_mean": {"mean": 30.0, "std": None},
}
COMPARISON = {
    "suite": {"benchmarks": [{"name": "t1", "scale": 1.0}]},
    "arms": [
        ARM,
        ARM
        | dict.fromkeys(("difference", "full", "above", "shuffled_mean", "grounded_mean"))
        | {"arm": "random"},
    ],
    "chance": {"t1": 0.25},
    "blind": {"t1": None},
}


@pytest.fixture
def picture(tmp_path) -> Path:
    from PIL import Image

    Image.new("RGB", (8, 8), "red").save(tmp_path / "means.png")
    return tmp_path / "means.png"


@pytest.fixture
def wandb_home(monkeypatch, tmp_path):
    pytest.importorskip("wandb")
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb-home"))


def _fake_wandb(folder: Path, body: str, monkeypatch) -> None:
    """Put a module `wandb` with this body first on the worker's PYTHONPATH."""
    (folder / "fake").mkdir()
    (folder / "fake" / "wandb.py").write_text(
        "class Error(Exception): ...\nclass Settings:\n    def __init__(self, **k): ...\n" + body
    )
    monkeypatch.setenv("PYTHONPATH", str(folder / "fake"))


@pytest.mark.slow
def test_offline_run_is_written_below_the_run_directory(wandb_home, tmp_path, picture, monkeypatch):
    monkeypatch.chdir(tmp_path)
    warnings = []
    tracker = Tracker.start(
        "offline", project="winnow", name="x", run_dir=tmp_path / "run", config={"a": 1}, say=warnings.append
    )
    tracker.stage("pool", 1.5)
    (tmp_path / "fit.log.jsonl").write_text('{"step": 1, "loss": 2.5, "mfu": null, "data_wait": 0.25}\n')
    tracker.training("train[a]", tmp_path / "fit.log.jsonl")
    tracker.comparison(COMPARISON)
    tracker.pictures([picture])
    status = tracker.finish()
    assert status.ok and warnings == [] and str(status).startswith("wandb: offline"), status
    assert status.path.is_relative_to(tmp_path / "run")
    record = next(status.path.glob("*.wandb")).read_bytes()
    steps = (b"train[a]/loss", b"train[a]/step", b"train[a]/data_wait")
    for text in (b"seconds/pool", b"mean/mmssr", b"comparison", b"means", *steps):
        assert text in record, text
    assert list(status.path.rglob("media/images/means_*.png")) and list(
        status.path.rglob("media/table/comparison_*.json")
    )
    assert not (tmp_path / "wandb").exists()


@pytest.mark.slow
def test_an_unreachable_server_takes_seconds_and_the_run_is_kept_offline(wandb_home, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    warnings, start = [], time.monotonic()
    tracker = Tracker.start(
        "online", project="winnow", name="x", run_dir=tmp_path / "run", say=warnings.append, seconds=3
    )
    tracker.stage("pool", 1.0)
    assert time.monotonic() - start < 2, "start and stage must not wait"
    status = tracker.finish()
    assert (status.mode, status.requested, status.ok) == ("offline", "online", False), status
    assert (
        status.path.is_relative_to(tmp_path / "run")
        and b"seconds/pool" in next(status.path.glob("*.wandb")).read_bytes()
    )
    assert (
        len(warnings) == 1
        and "wandb sync" in warnings[0]
        and "The run continues" in warnings[0]
        and "timed out" in warnings[0]
    )
    assert time.monotonic() - start < 100, "seconds, mostly imports on a slow machine"


def test_a_step_of_a_training_is_its_numbers(tmp_path):
    lines = [{"step": 1, "loss": 2.5, "mfu": None}, {"step": 2, "loss": 2.0, "late": [[3, "a", "b"]]}]
    (tmp_path / "log").write_text("".join(json.dumps(line) + "\n" for line in lines))
    steps = list(training_steps("t", tmp_path / "log"))
    assert steps == [{"t/step": 1, "t/loss": 2.5}, {"t/step": 2, "t/loss": 2.0}]


def test_disabled_starts_nothing(tmp_path):
    code = (
        "import sys; from pathlib import Path; from recipes.tracker import Tracker; "
        "t = Tracker.start('disabled', project='p', name='n', run_dir=Path(sys.argv[1])); "
        "t.stage('x', 1.0); t.pictures([]); "
        "assert t.finish().ok and 'wandb' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=Path(__file__).parents[2])
    assert not list(tmp_path.iterdir())


def test_missing_wandb_is_one_warning(tmp_path, monkeypatch):
    _fake_wandb(tmp_path, "raise ImportError('not here')", monkeypatch)
    warnings = []
    tracker = Tracker.start(
        "offline", project="winnow", name="x", run_dir=tmp_path / "run", say=warnings.append
    )
    tracker.stage("pool", 1.0)
    tracker.comparison(COMPARISON)
    status = tracker.finish()
    assert (
        len(warnings) == 1
        and "winnow[track]" in warnings[0]
        and (status.mode, status.ok) == ("disabled", False)
    )


def test_a_failure_during_the_run_is_one_warning(tmp_path, monkeypatch):
    _fake_wandb(
        tmp_path,
        "class Run:\n    dir = '/x/files'\n    def log(self, v): raise Error('disk full')\n"
        "def init(**k): return Run()\n",
        monkeypatch,
    )
    warnings = []
    tracker = Tracker.start(
        "offline", project="winnow", name="x", run_dir=tmp_path / "run", say=warnings.append
    )
    for k in range(50):
        tracker.stage(f"stage {k}", 1.0)
        time.sleep(0.02)
    status = tracker.finish()
    assert len(warnings) == 1 and "disk full" in warnings[0] and "disk full" in status.detail


def test_an_unexpected_failure_of_the_wandb_process_is_logged(tmp_path, monkeypatch):
    _fake_wandb(
        tmp_path,
        "class Run:\n    dir = '/x/files'\n    def log(self, v): 1 / 0\ndef init(**k): return Run()\n",
        monkeypatch,
    )
    warnings = []
    tracker = Tracker.start(
        "offline", project="winnow", name="x", run_dir=tmp_path / "run", say=warnings.append
    )
    tracker.stage("pool", 1.0)
    assert not tracker.finish().ok and len(warnings) == 1 and "worker.log" in warnings[0]
    assert "ZeroDivisionError" in (tmp_path / "run/wandb/worker.log").read_text()


@pytest.mark.slow
def test_a_blocked_upload_is_aborted(tmp_path, monkeypatch):
    pid = tmp_path / "pid"
    _fake_wandb(
        tmp_path,
        "import time, subprocess\n"
        "child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        f"open({str(pid)!r}, 'w').write(str(child.pid))\n"
        "class Run:\n    dir = '/x/files'\n    def finish(self, quiet): time.sleep(600)\n"
        "def init(**k): return Run()\n",
        monkeypatch,
    )
    warnings, start = [], time.monotonic()
    status = Tracker.start(
        "offline", project="winnow", name="x", run_dir=tmp_path / "run", say=warnings.append
    ).finish(seconds=5)
    assert time.monotonic() - start < 20 and "not finished within 5 s" in status.detail and len(warnings) == 1
    state, deadline = Path(f"/proc/{pid.read_text()}/status"), time.monotonic() + 10
    while state.exists() and "zombie" not in state.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert time.monotonic() < deadline, "wandb's background process must be killed too"


def test_comparison_rows_are_complete():
    columns, rows = comparison_rows(COMPARISON)
    assert columns[-1] == "t1" and all(len(row) == len(columns) for row in rows)
    assert rows[0][:7] == ["mmssr", "30%", 3, 50.0, 1.0, 90.0, 9] and rows[1][7] is None
    assert rows[0][10:] == [20.0, 30.0, 0.5] and rows[1][10:] == [None, None, 0.5]
    assert [(row[0], row[3], row[-1]) for row in rows[2:]] == [("chance", 25.0, 0.25), ("blind", None, None)]
    json.dumps(rows)


SECRET = "http://bob:PASSW0RD@127.0.0.1:9/v1?api-key=QUERYKEY"
RECORDING = """
import json
class Run:
    dir = {folder!r} + "/files"
    def log(self, value): print(value, file=open({folder!r} + "/logged", "a"))
    def define_metric(self, *a, **k): ...
    def finish(self, quiet): ...
    summary = {{}}
def init(**k):
    seen = {{"config": k["config"], "argv": open("/proc/self/cmdline").read()}}
    json.dump(seen, open({folder!r} + "/init", "w"))
    return Run()
"""


def recorded(tmp_path, monkeypatch, **options):
    _fake_wandb(tmp_path, RECORDING.format(folder=str(tmp_path)), monkeypatch)
    warnings = []
    tracker = Tracker.start(
        "offline", project="p", name="x", run_dir=tmp_path / "run", say=warnings.append, **options
    )
    return tracker, warnings


def test_a_recipe_of_any_length_is_passed_and_no_secret_with_it(tmp_path, monkeypatch):
    config = {"long": "x" * 1_000_000, "server": {"url": SECRET, "note": f"see {SECRET}"}}
    start = time.monotonic()
    tracker, warnings = recorded(tmp_path, monkeypatch, config=config)
    tracker.stage(f"stage of {SECRET}", 1.0)
    assert time.monotonic() - start < 2
    assert tracker.finish().ok and not warnings
    seen = json.loads((tmp_path / "init").read_text())
    assert seen["config"]["long"] == config["long"] and len(seen["argv"]) < 1000
    assert seen["config"]["server"]["url"] == "http://***@127.0.0.1:9/v1?***"
    for text in [seen["argv"], json.dumps(seen["config"]), (tmp_path / "logged").read_text()]:
        assert not any(secret in text for secret in ("bob", "PASSW0RD", "QUERYKEY"))


def test_an_error_that_quotes_a_url_is_masked(tmp_path, monkeypatch):
    _fake_wandb(tmp_path, f"def init(**k): raise Error('no connection to {SECRET}')\n", monkeypatch)
    warnings = []
    status = Tracker.start(
        "offline", project="p", name="x", run_dir=tmp_path / "run", say=warnings.append
    ).finish()
    assert "no connection to http://***@127.0.0.1:9/v1?***" in status.detail and "PASSW0RD" not in warnings[0]


def test_a_worker_that_reads_nothing_blocks_nobody(tmp_path, monkeypatch):
    _fake_wandb(tmp_path, "import time\ndef init(**k): time.sleep(600)\n", monkeypatch)
    warnings, start = [], time.monotonic()
    tracker = Tracker.start("offline", project="p", name="x", run_dir=tmp_path / "run", say=warnings.append)
    for _ in range(20):
        tracker.comparison({"long": "x" * 100_000})  # far more than a pipe holds
    assert time.monotonic() - start < 2
    status = tracker.finish(seconds=3)
    assert time.monotonic() - start < 15 and "not finished within 3 s" in status.detail and len(warnings) == 1


def test_a_place_that_cannot_be_written_or_a_process_that_cannot_start_is_a_warning(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for run_dir, name in ((tmp_path / "file" / "run", sys.executable), (tmp_path / "run", "/no/such/python")):
        monkeypatch.setattr(sys, "executable", name)
        warnings = []
        tracker = Tracker.start("offline", project="p", name="x", run_dir=run_dir, say=warnings.append)
        tracker.stage("pool", 1.0)
        tracker.comparison({})
        status = tracker.finish()
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
