"""Every backend's files, read back with the backend's own library; nothing private is in them."""

import json
from pathlib import Path

import pytest

from recipes.tracking import system
from recipes.tracking.contract import Artifact, RunInfo
from recipes.tracking.rows import claim_in_words
from recipes.tracking.tracker import Tracker

TRAIN = RunInfo("train-1", "train[a,0]", "train", "winnow", "g", tags=("arm:a",), config={"lr": 0.001})
EXPERIMENT = RunInfo("experiment-1", "demo", "experiment", "winnow", "g", tags=("arm:a",), commit="c0ffee")


def tell(backend: str, folder: Path, first: int, last: int) -> None:
    """One training, of which steps `first` to `last` are new, and, once that is done, the experiment."""
    from PIL import Image

    stage = folder / "stage"
    stage.mkdir(exist_ok=True)
    with (stage / "fit.log.jsonl").open("a") as log:
        for step in range(first, last + 1):
            line = {
                "step": step,
                "loss": 8 / step,
                "grad_norm": 1.0,
                "mfu": 0.5,
                "late": [[1, "PRIVATE", "x"]],
            }
            log.write(json.dumps(line) + "\n")
    tracker = Tracker.start([backend], "offline", folder=folder / "tracking", say=pytest.fail)
    tracker.open(EXPERIMENT)
    tracker.watch(TRAIN, stage)
    if last == 8:
        (stage / "fit.times.log").write_text(json.dumps({"meters": {"mfu": 0.25}}))
        (stage / "done.json").write_text(json.dumps({"hash": "a" * 64, "root": "b" * 64}))
        Image.new("RGB", (8, 8), "red").save(folder / "forest.png")
        (folder / "report.md").write_text("# Report\n")
        tracker.table(EXPERIMENT.id, "comparison", ["arm", "mean"], [["a", 1.5], ["b", None]])
        tracker.figures(EXPERIMENT.id, [folder / "forest.png"])
        tracker.summary(EXPERIMENT.id, {"a/mean": 1.5, "a/claim": "beats b on this pool"})
        files = {"report.md": folder / "report.md"}
        tracker.artifact(EXPERIMENT.id, Artifact("report-1", "report", files, {"subset": stage}))
        tracker.complete(EXPERIMENT.id, "s")
    (status,) = tracker.finish()
    assert status.ok and status.path == folder / "tracking" / backend, status


def told_twice(backend: str, folder: Path) -> Path:
    """A training that is interrupted after step 4, and goes on; returns the backend's folder."""
    tell(backend, folder, 1, 4)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name.startswith("logged-")}
    tell(backend, folder, 5, 8)
    assert len(before) == 1
    place = folder / "tracking" / backend
    files = [path for path in place.rglob("*") if path.is_file() and "worker.log" not in path.name]
    assert not [path for path in files if b"PRIVATE" in path.read_bytes()]
    return place


@pytest.mark.slow
def test_wandb_has_one_run_for_each_id_with_every_step_once(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_API_KEY", "planted" * 6)
    folder = told_twice("wandb", tmp_path)
    runs = {path.stem: list(_wandb_records(path)) for path in sorted(folder.glob("offline-run-*/*.wandb"))}
    assert set(runs) == {"run-train-1", "run-experiment-1"}
    parts = sorted(folder.glob("offline-run-*-train-1/*.wandb"))
    assert len(parts) == 2, "each call has a file, which is synced into the run of this id"
    history: dict[int, dict] = {}
    for part in parts:
        for record in _wandb_records(part):
            if record.run.run_id:
                assert (record.run.run_id, record.run.job_type) == ("train-1", "train")
                assert record.run.host == "***", "the machine's name is nobody's business"
                assert record.run.run_group == "g" and list(record.run.tags) == ["arm:a"]
            if record.history.item:
                items = {
                    item.nested_key[0] if item.nested_key else item.key: item for item in record.history.item
                }
                step = record.history.step.num
                assert step not in history
                history[step] = {key: json.loads(item.value_json) for key, item in items.items()}
    assert sorted(history) == list(range(1, 9)) and history[4]["train/loss"] == 2.0
    records = runs["run-experiment-1"]
    names = [record.artifact.name for record in records if record.artifact.name]
    assert "report-1" in names
    (report,) = (record.artifact for record in records if record.artifact.name == "report-1")
    places = {entry.path: entry.ref for entry in report.manifest.contents}
    assert places.pop("report.md") == ""
    assert places["subset/done.json"] == (tmp_path / "stage" / "done.json").as_uri()
    assert all(ref.startswith((tmp_path / "stage").as_uri()) for ref in places.values())
    assert list(folder.rglob("media/images/forest_*.png"))
    assert list(folder.rglob("media/table/comparison_*.table.json"))
    whole = b"".join(path.read_bytes() for path in folder.glob("offline-run-*/*.wandb"))
    assert b"beats b on this pool" in whole and b"c0ffee" in whole
    assert b"planted" not in whole


def _wandb_records(path: Path):
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal.datastore import DataStore

    store = DataStore()
    store.open_for_scan(str(path))
    while (data := store.scan_data()) is not None:
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        yield record


@pytest.mark.slow
def test_tensorboard_reads_every_step_once_with_tables_and_figures_as_texts_and_images(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = told_twice("tensorboard", tmp_path)
    training = EventAccumulator(str(folder / "train-a,0.train-1"))
    training.Reload()
    losses = training.Scalars("train/loss")
    assert [(event.step, event.value) for event in losses] == [(k, pytest.approx(8 / k)) for k in range(1, 9)]
    assert {"train/mfu", "train/grad_norm", "system/cpu_percent"} <= set(training.Tags()["scalars"])
    experiment = EventAccumulator(str(folder / "demo.experiment-1"))
    experiment.Reload()
    assert experiment.Tags()["images"] == ["forest"]
    text = {
        tag: experiment.Tensors(tag)[0].tensor_proto.string_val[0].decode()
        for tag in experiment.Tags()["tensors"]
    }
    assert text["comparison/text_summary"].splitlines()[2] == "| a | 1.5 |"
    assert "beats b on this pool" in text["summary/text_summary"]
    assert str(tmp_path / "report.md") in text["artifact/report-1/text_summary"]


def test_jsonl_has_every_step_once(tmp_path):
    folder = told_twice("jsonl", tmp_path)
    lines = [json.loads(line) for line in (folder / "train-1.jsonl").read_text().splitlines()]
    logged = [(line["step"], line["values"]["train/loss"]) for line in lines if line["kind"] == "log"]
    assert logged == [(k, 8 / k) for k in range(1, 9)]
    assert [line["complete"] for line in lines if line["kind"] == "finish"] == [False, True]
    machine = [line["values"] for line in lines if line["kind"] == "system"]
    assert machine and machine[0]["system/memory_gb"] > 0


@pytest.mark.slow
def test_trackio_has_every_step_once_and_reaches_no_server(tmp_path, monkeypatch):
    """With whatever the environment names as a Space: offline, nothing is sent there."""
    pytest.importorskip("trackio")
    import sqlite3

    monkeypatch.setenv("TRACKIO_SPACE_ID", "nobody/nowhere")
    folder = told_twice("trackio", tmp_path)
    with sqlite3.connect(folder / "winnow.db") as database:
        rows = database.execute("SELECT run_name, step, metrics FROM metrics ORDER BY step").fetchall()
    logged = [(step, json.loads(metrics)) for name, step, metrics in rows if name == "train[a,0] train-1"]
    steps = [(step, values["train/loss"]) for step, values in logged if "train/loss" in values]
    assert steps == [(k, 8 / k) for k in range(1, 9)]


def test_trackio_is_called_by_the_interface_that_it_shares_with_wandb(tmp_path, monkeypatch):
    """Without the library, which the tests' environment lacks: a stand-in that writes its calls down."""
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "trackio.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    monkeypatch.setenv("TRACKIO_SPACE_ID", "nobody/nowhere")
    told_twice("trackio", tmp_path)
    calls = [json.loads(line) for line in (tmp_path / "tracking/trackio/calls").read_text().splitlines()]
    assert not [call for call in calls if call["space"]]
    inits = [call["init"] for call in calls if "init" in call]
    assert {init["resume"] for init in inits} == {"allow"}
    assert [init["name"] for init in inits].count("train[a,0] train-1") == 2
    assert [call["step"] for call in calls if call.get("step")] == list(range(1, 9))


STAND_IN = """
import json, os

def call(**content):
    with open(os.environ["TRACKIO_DIR"] + "/calls", "a") as handle:
        print(json.dumps(content | {"space": os.environ.get("TRACKIO_SPACE_ID")}), file=handle)

class Thing:
    def __init__(self, *a, **k): ...
    def add_file(self, path, name): ...
    def add_reference(self, uri, name, checksum): ...
Table = Image = Artifact = Thing

class Run:
    def log(self, values, step=None): call(log=sorted(values), step=step)
    def log_artifact(self, artifact): ...
    def finish(self): call(finish=True)

def init(**k):
    call(init=k)
    return Run()
"""


def test_the_machine_is_measured():
    values = system.sample()
    assert values["system/memory_gb"] > 0 and 0 <= values["system/memory_percent"] <= 100


@pytest.mark.parametrize(
    "claim, words",
    [
        ({"verdict": "beats"}, "beats random over pools"),
        ({"verdict": "loses to"}, "loses to random over pools"),
        ({"verdict": "equivalent"}, "equivalent to random within 1.5 points over pools"),
        (
            {"verdict": "undecided", "needs": {"pools": 12, "seeds": 2, "reason": ""}},
            "undecided against random over pools: would need 12 pools x 2 seeds",
        ),
        (
            {"verdict": "undecided", "needs": {"pools": None, "seeds": None, "reason": "too few questions"}},
            "undecided against random over pools: too few questions",
        ),
        ({"verdict": None, "reason": "one repetition"}, "no claim: one repetition"),
    ],
)
def test_a_claim_is_said_as_the_comparison_says_it(claim, words):
    assert claim_in_words({"margin": 1.5, "scope": "over pools", "needs": None} | claim, "random") == words
