"""--partial: a report on the finished repetitions of a study, in a directory of its own, without training."""

import json
import shutil
from pathlib import Path

from recipes.run import main

STUDY = ("demo.yaml", "pool_seeds=2", "arms.random.seeds=3")


def run(*arguments):
    return main([*arguments], package="dummy_stages")


def compared(name):
    return json.loads(Path(f"runs/{name}/stages/compare/stage.json").read_text())["config"]


def test_no_finished_repetition_is_an_error(project, executed, capsys):
    assert run(*STUDY, "--partial") == 2
    assert "no repetition is finished for every arm on every pool" in capsys.readouterr().err
    assert executed() == [] and not Path("runs").exists()


def test_finished_repetitions_are_compared_and_nothing_is_trained(project, executed, capsys):
    # mmssr lacks its second repetition
    run("demo.yaml", "pool_seeds=2", "arms.mmssr.seeds=1", "arms.random.seeds=2", "--until", "evaluate")
    before = len(executed())
    assert run(*STUDY, "--partial") == 0
    assert [entry.partition("/")[0] for entry in executed()[before:]] == ["leaks", "leaks", "compare"]
    config = compared("demo.partial")
    assert {(r["arm"], r["pool_seed"], r["train_seed"]) for r in config["runs"]} == {
        (arm, pool, 0) for arm in ("mmssr", "random", "full") for pool in range(2)
    }
    assert config["planned_runs"] == 12 and not Path("runs/demo/report.md").exists()
    run(*STUDY, "--until", "evaluate[mmssr,p0,1]")
    assert run(*STUDY, "--partial") == 0
    assert len(compared("demo.partial")["runs"]) == 6  # pool 1 still lacks it
    run(*STUDY, "--until", "evaluate[mmssr,p1,1]")
    assert run(*STUDY, "--partial") == 0
    assert len(compared("demo.partial")["runs"]) == 10


def test_a_finished_study_is_compared_as_a_whole(project):
    run(*STUDY)
    assert run(*STUDY, "--partial") == 0
    whole, part = compared("demo"), compared("demo.partial")
    assert part["runs"] == whole["runs"] and len(part["runs"]) == part["planned_runs"] == 12


def test_a_repetition_with_a_deleted_stage_is_not_finished(project):
    run(*STUDY)
    shutil.rmtree(Path("runs/demo/stages/train[random,p1,2]").resolve())
    assert run(*STUDY, "--partial") == 0
    assert len(compared("demo.partial")["runs"]) == 10


def test_a_base_has_no_repetitions(project, capsys):
    (project / "b.yaml").write_text("name: b\ngoal: base\npretrain: {steps: 3}\n")
    assert run("b.yaml", "--partial") == 2
    assert "nothing to compare" in capsys.readouterr().err


def test_the_plan_of_a_partial_report(project, capsys):
    run("demo.yaml", "arms.mmssr.seeds=1", "arms.random.seeds=1")
    capsys.readouterr()
    assert run("demo.yaml", "--partial", "--dry-run") == 0
    assert "demo.partial, protocol standard" in (out := capsys.readouterr().out)
    assert "1 stages to run" in out and not Path("runs/demo.partial").exists()
