"""What a recipe tells its trackers: a run for the experiment, one for each training, and nothing twice."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from comparisons import comparison
from processes import DUMMY_RUN, environment, wait_for

from recipes import run
from recipes.code import Stages
from recipes.load import load
from recipes.plan import make_plan
from recipes.tracking.contract import RunInfo
from recipes.tracking.describe import describe, protocol_hash
from recipes.tracking.steps import StepLog, Watched, mark, numbers
from recipes.tracking.tracker import Tracker

TRACK = ["track.mode=offline", "track.backends=[jsonl]"]


@pytest.fixture
def finished(project, monkeypatch):
    """Runs demo.yaml with trainings of five steps and a made-up comparison of its arms; returns the runs."""
    given = project / "given"
    (given / "tables").mkdir(parents=True)
    (given / "comparison.json").write_text(json.dumps(comparison(3).to_dict()))
    (given / "report.md").write_text("# Report\n")
    (given / "tables" / "arms.csv").write_text("arm,mean\n")
    monkeypatch.setenv("DUMMY_COMPARISON", str(given))
    monkeypatch.setenv("DUMMY_STEPS", "5")

    def tracked(*arguments: str) -> dict[str, list[dict]]:
        assert run.main(["demo.yaml", *TRACK, *arguments], "dummy_stages") == 0
        return runs_of(project)

    return tracked


def runs_of(project: Path, name: str = "demo") -> dict[str, list[dict]]:
    """The lines of each tracked run, by its id."""
    files = sorted((project / "runs" / name / "tracking" / "jsonl").glob("*.jsonl"))
    return {file.stem: [json.loads(line) for line in file.read_text().splitlines()] for file in files}


def of(lines: list[dict], kind: str) -> list[dict]:
    return [line for line in lines if line["kind"] == kind]


def planned(*overrides: str, file: str = "demo.yaml"):
    loaded = load(file, list(overrides))
    plan = make_plan(loaded, Stages("dummy_stages"))
    return loaded, plan, describe(loaded, plan, Path("."), "c0ffee")


def test_every_training_is_a_run_of_its_own_with_its_steps(finished):
    runs = finished()
    trainings = {key: lines for key, lines in runs.items() if key.startswith("train-")}
    assert len(trainings) == 5  # 2 mmssr, 2 random, 1 full
    for lines in trainings.values():
        (start,) = of(lines, "start")
        assert start["job_type"] == "train" and start["group"].startswith("demo-")
        assert {"scale:tiny", "kind:train"} <= set(start["tags"])
        steps = of(lines, "log")
        assert [line["step"] for line in steps] == [1, 2, 3, 4, 5]
        assert steps[1]["values"] == {
            "train/loss": 1.5,
            "train/grad_norm": 1.5,
            "train/learning_rate": 1e-3,
            "train/tokens_per_second": 1000.0,
            "train/peak_memory_gb": 2.5,
        }
        assert of(lines, "summary")[0]["values"] == {"whole/tokens_per_second": 990.0}
        (checkpoint,) = of(lines, "artifact")
        assert checkpoint["type"] == "model" and checkpoint["files"] == {}
        done = json.loads((Path(checkpoint["references"]["checkpoint"]) / "done.json").read_text())
        assert checkpoint["about"] == {"stage_hash": done["hash"], "sha256": done["root"]}
        assert lines[-1]["kind"] == "finish" and lines[-1]["complete"]
    tags = {start["name"]: set(start["tags"]) for lines in trainings.values() for start in of(lines, "start")}
    assert {"arm:mmssr", "selector:mmssr", "budget:30%"} <= tags["train[mmssr,1]"]
    assert {"arm:full", "selector:all", "budget:100%"} <= tags["train[full,0]"]


def test_the_run_of_the_experiment_has_tables_words_and_files(finished):
    runs = finished()
    (lines,) = (lines for key, lines in runs.items() if key.startswith("experiment-"))
    (start,) = of(lines, "start")
    assert start["job_type"] == "experiment" and {"arm:mmssr", "arm:random", "arm:full"} <= set(start["tags"])
    assert set(start["config"]["trainings"].values()) >= {key for key in runs if key.startswith("train-")}
    assert len(start["commit"]) == 40 and start["config"]["recipe"]["arms"]["mmssr"]["budget"] == "30%"
    shown = comparison(3)
    tables = {table["name"]: table for table in of(lines, "table")}
    row = dict(zip(tables["comparison"]["columns"], tables["comparison"]["rows"][2], strict=True))
    arm = shown.arms[2]
    assert (row["arm"], row["verdict"], row["rests_on"]) == ("mmssr", "beats", arm.robustness.rests_on[0])
    assert row["difference"] == arm.difference.value and row["corrected_low"] == arm.difference.corrected_low
    per_seed = [line for line in tables["repetitions"]["rows"] if line[0] == "mmssr"]
    assert [line[3] for line in per_seed] == list(arm.unit_means)
    assert len(tables["benchmarks"]["rows"]) == 3 * len(list(shown.suite))
    (summary,) = of(lines, "summary")
    assert summary["values"]["mmssr/claim"] == "beats random on this pool"
    report, subsets = of(lines, "artifact")
    assert set(report["files"]) == {"report.md", "comparison.json", "tables/arms.csv"}
    assert subsets["type"] == "subset" and "select[mmssr,0]/subset" in subsets["references"]
    assert max(line["values"]["stages/finished"] for line in of(lines, "log")) == len(planned()[1].nodes)
    assert lines[-1]["kind"] == "finish" and lines[-1]["complete"]


def test_a_second_call_opens_no_second_run_and_says_nothing_twice(finished, project):
    before = finished()
    assert finished() == before
    assert finished("--force", "compare").keys() == before.keys()


def test_steps_are_logged_while_the_training_runs_and_once_if_it_is_killed(project):
    arguments = ["demo.yaml", *TRACK, "--executor=inline"]
    variables = {"DUMMY_STEPS": "200", "DUMMY_STEP_SECONDS": "0.05"}
    command = [sys.executable, "-c", DUMMY_RUN, *arguments]
    process = subprocess.Popen(
        command, cwd=project, env=environment(**variables), start_new_session=True, stdout=subprocess.DEVNULL
    )

    def steps() -> list[int]:
        logged = [lines for key, lines in runs_of(project).items() if key.startswith("train-")]
        return [line["step"] for lines in logged[:1] for line in of(lines, "log")]

    wait_for(lambda: len(steps()) > 20)
    assert len(steps()) < 200 and not list((project / "store" / "train").glob("*/done.json"))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (key,) = (key for key in runs_of(project) if key.startswith("train-"))
    wait_for(lambda: runs_of(project)[key][-1]["kind"] == "finish")  # the tracker ends by itself
    assert runs_of(project)[key][-1]["complete"] is False
    subprocess.run(
        command, cwd=project, env=environment(DUMMY_STEPS="200"), check=True, stdout=subprocess.DEVNULL
    )
    lines = runs_of(project)[key]
    assert [line["step"] for line in of(lines, "log")] == list(range(1, 201))
    assert lines[-1]["kind"] == "finish" and lines[-1]["complete"]
    assert len([key for key in runs_of(project) if key.startswith("experiment-")]) == 1


def test_a_stopped_experiment_goes_on_in_its_run(finished):
    first = finished("--until", "select")
    (key,) = first
    assert not first[key][-1]["complete"]
    assert finished("--until", "select") == first, "nothing new, so nothing is opened"
    assert finished()[key][-1]["complete"] and len(of(finished()[key], "start")) == 2


def test_a_cached_training_of_another_recipe_is_not_logged_again(finished, project):
    finished()
    (project / "other.yaml").write_text(
        (project / "demo.yaml").read_text().replace("name: demo", "name: other")
    )
    assert run.main(["other.yaml", *TRACK], "dummy_stages") == 0
    assert [key.partition("-")[0] for key in runs_of(project, "other")] == ["experiment"]


def test_ids_follow_from_the_work_and_not_from_how_it_is_tracked_or_run(project):
    _, _, one = planned()
    _, _, same = planned("track.project=x", "resources.workers=7", "track.tags=[a]")
    assert one.experiment.id == same.experiment.id and same.experiment.project == "x"
    assert [info.id for info, _ in one.trainings] == [info.id for info, _ in same.trainings]
    assert "a" in same.experiment.tags and all("a" in info.tags for info, _ in same.trainings)
    _, _, other = planned("train.lr=2e-3")
    assert other.experiment.id != one.experiment.id
    assert not {info.id for info, _ in other.trainings} & {
        info.id for info, _ in one.trainings if info.name.startswith("train[")
    }
    assert other.experiment.group != one.experiment.group
    assert planned("track.group=mine")[2].experiment.group == "mine"


def test_the_group_is_of_the_protocol_and_not_of_the_arms(project):
    assert protocol_hash(load("demo.yaml", [])) == protocol_hash(load("demo.yaml", ["arms.mmssr.seeds=1"]))
    assert protocol_hash(load("demo.yaml", [])) != protocol_hash(load("demo.yaml", ["train.lr=2e-3"]))


def test_every_stage_that_trains_is_watched(project):
    arms = "{a: {selector: mmssr, budget: 30%}, b: {selector: ifd, budget: 30%}}"
    _, plan, described = planned(f"arms={arms}", "baseline=a", "reference=null")
    training = {node.kind for node in plan.nodes if node.kind.startswith(("train", "fit_"))}
    assert training >= {"train", "fit_rater", "fit_seed"}
    assert {info.name.partition("[")[0] for info, _ in described.trainings} == training


def test_numbers_of_a_step_are_all_that_leaves_its_log():
    line = {"step": 3, "loss": 2.5, "mfu": None, "late": [[1, "TEXT", "x"]], "name": "TEXT", "clipped": True}
    assert numbers(line) == {"train/loss": 2.5}


def test_a_log_is_read_line_by_line_and_again_from_its_start_after_it_was_rewritten(tmp_path):
    path = tmp_path / "fit.log.jsonl"
    log = StepLog(path)
    assert list(log.new()) == []
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert [line["step"] for line in log.new()] == [1, 2]
    with path.open("a") as handle:
        handle.write('ep": 3}\n')
    assert [line["step"] for line in log.new()] == [3] and list(log.new()) == []
    path.write_text('{"step": 1, "longer": true}\n{"step": 2}\n{"step": 3}\n{"step": 4}\n')
    assert [line["step"] for line in log.new()] == [1, 2, 3, 4]


def test_a_stage_that_was_finished_before_is_untouched_until_it_is_made_again(tmp_path):
    done = tmp_path / "done.json"
    done.write_text("{}")
    watched = Watched(tmp_path, mark(tmp_path))
    assert watched.untouched()
    done.unlink()
    assert not watched.untouched() and not watched.done()
    time.sleep(0.01)
    done.write_text("{}")
    assert watched.done() and not watched.untouched()
    assert not Watched(tmp_path / "gone", mark(tmp_path / "gone")).untouched()
    assert not Watched(tmp_path, mark(tmp_path), begun=True).untouched(), "its end was not told yet"


def test_trainings_in_subfolders_are_runs_of_their_own(project, tmp_path):
    tracker = Tracker.start(["jsonl"], "offline", folder=tmp_path / "tracking")
    tracker.watch(RunInfo("pretrain-1", "pretrain", "train", "p", "g"), tmp_path / "stage")
    for phase in ("see", "read"):
        (tmp_path / "stage" / phase).mkdir(parents=True)
        (tmp_path / "stage" / phase / "fit.log.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    tracker.finish()
    files = {file.stem for file in (tmp_path / "tracking" / "jsonl").glob("*.jsonl")}
    assert files == {"pretrain-1-see", "pretrain-1-read"}


@pytest.fixture
def chosen(tmp_path) -> tuple[Path, Path]:
    """(pool, subset) of three conversations, of which the subset has two; an answer quotes a key."""
    from curation.pool.ingest import build_pool
    from curation.pool.read import Pool
    from curation.selectors.random import select
    from curation.subset import write_subset

    said = [("human", "QUESTION"), ("gpt", "the key is PLANTED-KEY-0123")]
    turns = [{"from": speaker, "value": text} for speaker, text in said]
    records = [{"id": f"s{number}", "conversations": turns} for number in range(3)]
    (tmp_path / "data.json").write_text(json.dumps(records))
    build_pool(tmp_path / "data.json", tmp_path, tmp_path / "pool")
    pool = Pool.open(tmp_path / "pool")
    picked = select(pool.table, 2, 0)
    write_subset(tmp_path / "subset", pool.table, pool.hash, picked, selector="random", params={}, seed=0)
    return tmp_path / "pool", tmp_path / "subset"


def test_samples_are_the_first_conversations_of_a_subset_without_secrets(tmp_path, chosen, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "PLANTED-KEY-0123")
    pool, subset = chosen
    tracker = Tracker.start(["jsonl"], "offline", folder=tmp_path / "tracking")
    tracker.open(RunInfo("experiment-1", "x", "experiment", "p", "g"))
    tracker.samples("experiment-1", "samples/a", subset, pool)
    assert tracker.finish()[0].ok
    text = (tmp_path / "tracking" / "jsonl" / "experiment-1.jsonl").read_text()
    (table,) = (line for line in map(json.loads, text.splitlines()) if line["kind"] == "table")
    assert table["columns"] == ["id", "source", "images", "conversation"] and len(table["rows"]) == 2
    assert {row[3] for row in table["rows"]} == {"QUESTION\nthe key is ***"}


def test_samples_are_logged_only_where_the_recipe_asks_for_them(finished, monkeypatch):
    asked = []
    monkeypatch.setattr(Tracker, "samples", lambda self, run, name, subset, pool: asked.append(name))
    finished()
    assert asked == []
    finished("track.log_samples=true", "name=again")
    assert asked == ["samples/select[mmssr,0]", "samples/select[random,0]", "samples/select[full,0]"]
