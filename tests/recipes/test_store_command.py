"""`python -m recipes.store`: list the stages, verify them, delete those that no run uses."""

import json
import os
import shutil
from pathlib import Path

import pytest

from recipes import run, store
from recipes.store.__main__ import main


@pytest.fixture
def filled(project):
    """A store with the stages of one run, and of another whose run directory has been deleted."""
    assert run.main(["demo.yaml"], "dummy_stages") == 0
    assert run.main(["demo.yaml", "name=other", "train.lr=0.5"], "dummy_stages") == 0
    shutil.rmtree("runs/other")
    return project


def stages() -> set[str]:
    return {p.parent.as_posix() for p in Path("store").glob("*/*/done.json")}


def test_ls_lists_stage_state_and_run(filled, capsys):
    capsys.readouterr()
    assert main(["ls"]) == 0
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if line.startswith("│")]
    assert len(rows) == len(stages()) and any(
        "train[mmssr,0]" in row and "done" in row and "demo" in row for row in rows
    )
    shared = len({node["hash"] for node in json.loads(Path("runs/demo/plan.json").read_text())})
    assert f"{len(rows)} stages" in out and f"{len(rows) - shared} used by no run" in out


def test_verify_reads_every_byte(filled, capsys):
    assert main(["verify"]) == 0
    weights = sorted(Path("store/train").glob("*/part-1.txt"))[0]
    times = weights.stat()
    weights.write_text("x" * times.st_size)

    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert main(["verify"]) == 1
    out = capsys.readouterr().out
    assert f"train/{weights.parent.name} (train[" in out
    assert "damaged: the content of part-1.txt has changed" in out and "1 damaged" in out


def test_gc_deletes_only_stages_that_no_run_uses(filled, capsys):
    before = stages()
    assert main(["gc", "--dry-run"]) == 0 and stages() == before
    assert "would be freed" in capsys.readouterr().out
    assert main(["gc"]) == 0
    named = {
        f"store/{n['kind']}/{n['hash'][:12]}" for n in json.loads(Path("runs/demo/plan.json").read_text())
    }
    assert stages() == before & named and before - named
    assert not [
        p for p in Path("store").glob("*/*") if p.suffix in (".lock", ".seen") and p.stem not in str(named)
    ]
    assert run.main(["demo.yaml"], "dummy_stages") == 0  # the run still has all its stages


def test_gc_keeps_unfinished_work_of_a_planned_stage(filled):
    train = Path(sorted(Path("runs/demo/stages").glob("train*"))[0]).resolve()
    (train / "done.json").unlink()
    assert main(["gc"]) == 0 and train.is_dir()


def test_gc_keeps_a_stage_that_another_process_runs(filled, capsys):
    named = {n["hash"][:12] for n in json.loads(Path("runs/demo/plan.json").read_text())}
    orphan = next(p for p in Path("store/train").iterdir() if p.is_dir() and p.name not in named)
    with store.lock(orphan, lambda: None):
        assert main(["gc"]) == 0
    assert orphan.is_dir() and "another process is running this stage" in capsys.readouterr().out


def test_gc_refuses_to_run_if_a_plan_cannot_be_read(filled, capsys):
    Path("runs/demo/plan.json").write_text("{")
    before = stages()
    assert main(["gc"]) == 1 and stages() == before
    assert "runs/demo/plan.json is not readable" in capsys.readouterr().err


def test_gc_keeps_paid_answers_and_unknown_files(filled):
    answers = Path("store/labels_api/answers/model")
    answers.mkdir(parents=True)
    (answers / "one.json").write_text("{}")
    assert main(["gc"]) == 0 and (answers / "one.json").exists()


def test_a_missing_store_is_a_one_line_error(project, capsys):
    assert main(["ls", "--root", "nowhere"]) == 1
    assert (
        capsys.readouterr().err
        == "error: nowhere/store does not exist; give the parent directory of store/ with --root\n"
    )
