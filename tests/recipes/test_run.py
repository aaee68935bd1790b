"""The command line and the run directory."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from processes import environment

from recipes.run import main
from recipes.store import OWN_FILES, finish, read_done, read_record


def run(*arguments):
    return main([*arguments], package="dummy_stages")


def kinds(executed):
    return [entry.partition("/")[0] for entry in executed()]


def child_seconds(*arguments, **options):
    """(CPU seconds, result) of a command; its wall time would depend on the load of the machine."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, **options)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done


@pytest.mark.slow
def test_a_dry_run_is_quick_and_imports_no_torch(project):
    code = (
        "import sys; from recipes.run import main; status = main(['demo.yaml', '--dry-run'], 'dummy_stages');"
        "sys.exit(status or 'torch' in sys.modules)"
    )
    seconds, done = child_seconds("-c", code, env=environment())
    assert done.returncode == 0, done.stderr
    assert seconds < 5


def test_a_dry_run_runs_and_writes_nothing(project, executed, capsys):
    before = sorted(project.rglob("*"))
    assert run("demo.yaml", "--dry-run") == 0
    assert executed() == [] and sorted(project.rglob("*")) == before
    out = capsys.readouterr().out
    assert "protocol standard" in out
    assert "32 stages to run, 0 not; expected 0 s of work" in out
    assert "without 32 stages that have no earlier run to estimate from" in out


def test_a_dry_run_estimates_from_earlier_runs(project, capsys):
    run("demo.yaml")
    for mark in (project / "store" / "train").glob("*/done.json"):
        record = {**read_record(mark.parent), "seconds": 50.0, "work": 100.0}
        finish(mark.parent, read_done(mark.parent).hash, record)
    capsys.readouterr()
    assert run("demo.yaml", "arms.mmssr.budget=100", "arms.mmssr.seeds=1", "--dry-run") == 0
    rows = {
        cells[1].strip(): [c.strip() for c in cells[2:4]]
        for line in capsys.readouterr().out.splitlines()
        if len(cells := line.split("│")) == 5
    }
    assert rows["train[mmssr,0]"] == ["new", "50.0"]  # 100 samples at half a second
    assert rows["train[random,0]"] == ["cached", "0.0"]
    assert rows["compare"][0] == "new"


def test_a_run_and_its_directory(project, capsys):
    assert run("demo.yaml") == 0
    place = project / "runs" / "demo"
    assert {p.name for p in place.iterdir()} >= {
        "recipe.yaml",
        "plan.json",
        "lineage.json",
        "timings.json",
        "stages",
    }
    report = (place / "part-0.txt").read_bytes()
    assert report == (place / "stages" / "compare" / "part-0.txt").read_bytes()
    assert not (place / "done.json").exists()
    for name, stage in json.loads((place / "lineage.json").read_text())["stages"].items():
        record = json.loads((place / "stages" / name / "stage.json").read_text())
        assert record["hash"] == stage["hash"]
        assert {"config", "parents", "seconds", "versions", "commit", "dirty", "machine", "summary"} <= set(
            record
        )
    assert os.readlink(place / "stages" / "compare").startswith("../../../store/compare/")
    timings = json.loads((place / "timings.json").read_text())
    assert timings["seconds_by_kind"].keys() == {
        "bench",
        "source",
        "pool",
        "clean",
        "leaks",
        "tokens",
        "labels",
        "fit_rater[scorer]",
        "signal[capability]",
        "fit_rater[styler]",
        "signal[style]",
        "select",
        "train",
        "answer",
        "evaluate",
        "compare",
    }
    out = capsys.readouterr().out
    assert "pool: 1 inputs" in out  # a derived value
    assert "seconds by stage: bench" in out and str(place) in out


def test_a_second_run_is_cached(project, executed, capsys):
    run("demo.yaml")
    first = executed()
    capsys.readouterr()
    assert run("demo.yaml") == 0
    assert executed() == first
    assert "32 stages, 32 cached, 0 to run" in capsys.readouterr().out


def test_inline_and_pool_give_equal_artefacts(project):
    assert run("demo.yaml", "root=a") == 0
    assert run("demo.yaml", "root=b", "--executor", "pool") == 0
    files = {
        p.relative_to("a")
        for p in Path("a/store").rglob("*")
        if p.is_file() and p.name not in OWN_FILES and p.suffix != ".seen"
    }
    assert len(files) > 100
    assert all((Path("a") / f).read_bytes() == (Path("b") / f).read_bytes() for f in files)
    marks = list(Path("a/store").rglob("done.json"))
    roots = [[read_done(p.parent).root, read_done(Path("b") / p.parent.relative_to("a")).root] for p in marks]
    assert len(roots) == 32 and all(a == b for a, b in roots)
    assert all(
        p.relative_to("b") in files or p.name in OWN_FILES or p.suffix in {".log", ".seen"}
        for p in Path("b/store").rglob("*")
        if p.is_file()
    )


def test_the_resolved_recipe_can_be_run_and_is_the_same_experiment(project, executed):
    run("demo.yaml", "arms.random.budget=20%", "seed_model.train.lora=null")
    first = executed()
    resolved = Path("runs/demo/recipe.yaml")
    text = resolved.read_text()
    assert yaml.safe_load(text)["train"]["batch_size"] == 16  # what the scale supplied
    assert "protocol: modified (seed_model.train.lora)" in text
    assert run(str(resolved)) == 0
    assert executed() == first
    assert resolved.read_text() == text


def test_root_moves_store_and_runs(project):
    run("demo.yaml", "root=elsewhere")
    assert not (project / "store").exists() and not (project / "runs").exists()
    assert (project / "elsewhere" / "runs" / "demo" / "lineage.json").exists()


def test_until_stops_after_a_stage(project, executed):
    assert run("demo.yaml", "--until", "labels") == 0
    assert kinds(executed) == ["bench", "source", "pool", "clean", "labels"]
    assert run("demo.yaml", "--until", "train[random,1]") == 0
    assert kinds(executed)[5:] == ["tokens", "select", "train"]


def test_force_reruns_a_stage_and_all_that_depend_on_it(project, executed):
    run("demo.yaml")
    first = len(executed())
    assert run("demo.yaml", "--force", "train[random,0]") == 0
    assert sorted(kinds(executed)[first:]) == ["answer", "compare", "evaluate", "train"]
    assert run("demo.yaml", "--force", "train") == 0
    assert kinds(executed)[first + 4 :].count("train") == 5


def test_limit_is_an_override(project):
    run("demo.yaml", "--limit", "7", "--until", "pool")
    assert json.loads(Path("runs/demo/stages/pool/stage.json").read_text())["config"]["limit"] == 7
    assert "protocol: modified (limit)" in Path("runs/demo/recipe.yaml").read_text()


def test_options_and_overrides_in_any_order(project, executed):
    assert run("--until", "pool", "demo.yaml", "name=x", "--executor", "inline", "limit=5") == 0
    assert (project / "runs" / "x").exists() and kinds(executed) == ["bench", "source", "pool"]


def test_links_of_removed_stages_are_removed(project):
    run("demo.yaml")
    run("demo.yaml", "arms.mmssr.seeds=1")
    assert not (project / "runs" / "demo" / "stages" / "train[mmssr,1]").is_symlink()
    assert (project / "runs" / "demo" / "stages" / "train[mmssr,0]").exists()


# ------------------------------------------------------------------------------------------ the store


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda p: os.truncate(p / "part-1.txt", 5), "part-1.txt has 5 bytes instead of"),
        (
            lambda p: (p / "part-1.txt").write_bytes((p / "part-1.txt").read_bytes()[::-1]),
            "the content of part-1.txt has changed",
        ),
        (lambda p: (p / "part-2.txt").unlink(), "part-2.txt is missing"),
    ],
)
def test_a_damaged_artefact_is_reported_and_rebuilt(project, executed, capsys, damage, message):
    run("demo.yaml")
    first, pool = len(executed()), Path("runs/demo/stages/pool").resolve()
    whole = {p: p.read_bytes() for p in pool.rglob("*.txt")}
    damage(pool)
    capsys.readouterr()
    assert run("demo.yaml") == 0
    assert f"pool: damaged: {message}" in capsys.readouterr().out
    assert kinds(executed)[first:] == ["pool"]
    assert {p: p.read_bytes() for p in pool.rglob("*.txt")} == whole


def test_an_unfinished_artefact_is_rebuilt(project, executed):
    run("demo.yaml")
    first, select = len(executed()), Path("runs/demo/stages/select[random,0]").resolve()
    (select / "done.json").unlink()
    (select / "left over.txt").write_text("from a run that was killed")
    Path("runs/demo/stages/compare/done.json").unlink()  # after a kill, no later stage exists either
    for stage in ("train", "answer", "evaluate"):
        Path(f"runs/demo/stages/{stage}[random,0]/done.json").unlink()
    assert run("demo.yaml") == 0
    assert sorted(kinds(executed)[first:]) == ["answer", "compare", "evaluate", "select", "train"]
    assert not (select / "left over.txt").exists()


def test_a_deleted_artefact_is_rebuilt_only_if_needed(project, executed):

    run("demo.yaml")
    first = len(executed())
    for checkpoint in Path("store/train").iterdir():
        shutil.rmtree(checkpoint) if checkpoint.is_dir() else None
    assert run("demo.yaml") == 0
    assert len(executed()) == first
    assert run("demo.yaml", "evaluation.batch_size=3", "arms.mmssr.seeds=1") == 0
    assert kinds(executed)[first:].count("train") == 4


def test_a_disk_that_cannot_be_written(project, capsys):
    Path("file").write_text("")
    assert run("demo.yaml", "root=file/below") == 1
    assert "error: cannot write" in (err := capsys.readouterr().err)
    assert "choose another place with root=DIR" in err and "file/below" in err


def test_a_store_that_cannot_be_written(project, capsys):
    Path("root").mkdir()
    Path("root/store").write_text("a file instead of a directory")
    assert run("demo.yaml", "root=root") == 1
    assert "error: stage bench failed: cannot write" in (err := capsys.readouterr().err)
    assert "root/store" in err and "choose another place with root=DIR" in err


@pytest.mark.parametrize(
    "options, message",
    [
        ("ro", "Read-only file system; choose a writable place with root=DIR"),
        (
            "size=40k",
            "No space left on device; free some space there, or keep store/ and runs/ on another disk with",
        ),
    ],
)
def test_a_real_read_only_or_full_disk(project, options, message):
    """On a small tmpfs in a mount namespace of its own, if the system allows that."""
    Path("disk").mkdir()
    code = 'from recipes.run import main; raise SystemExit(main(["demo.yaml", "root=disk"], "dummy_stages"))'
    script = f"mount -t tmpfs -o {options} none disk || exit 77; exec {sys.executable} -c '{code}'"
    command = ["unshare", "-rm", "sh", "-c", script]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("this system does not allow mounts in a user namespace")
    assert done.returncode == 1
    assert message in done.stderr and "cannot write" in done.stderr


# ------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["gone.yaml"], "error: recipe file gone.yaml does not exist in"),
        (["demo.yaml", "basline=random"], "did you mean `baseline`?"),
        (
            ["demo.yaml", "--until", "trian"],
            "error: there is no stage `trian` in this plan; did you mean `train`?",
        ),
        (["demo.yaml", "--force", "pol"], "did you mean `pool`?"),
        (["demo.yaml", "--limit", "0"], "limit: got 0"),
        (["demo.yaml", "base.path=gone"], "stages `train` and `pool` need gone, which does not exist"),
    ],
)
def test_a_wrong_recipe_ends_with_status_2_before_anything_is_written(project, capsys, arguments, message):
    before = sorted(project.rglob("*"))
    assert run(*arguments) == 2
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err
    assert sorted(project.rglob("*")) == before


def test_a_failed_stage_prints_its_traceback_and_then_the_reason(project, capsys, monkeypatch):
    monkeypatch.setenv("DUMMY_FAIL", "labels")
    assert run("demo.yaml") == 1
    captured = capsys.readouterr()
    assert "body.py" in captured.err
    assert captured.err.splitlines()[-1] == "error: stage labels failed: RuntimeError: told to fail"
    assert "labels: failed" in captured.out and "pool" in captured.out
    monkeypatch.delenv("DUMMY_FAIL")
    assert run("demo.yaml") == 0


def test_on_stage_receives_cached_and_new_stages(project):
    from recipes.code import Stages
    from recipes.engine import run as run_plan
    from recipes.load import load
    from recipes.plan import make_plan

    loaded, stages = load("demo.yaml"), []
    plan = make_plan(loaded, Stages("dummy_stages"))
    for _ in range(2):
        run_plan(
            loaded,
            plan,
            until="pool",
            on_stage=lambda node, outcome: stages.append((node.kind, outcome.state)),
        )
    assert stages == [(kind, state) for state in ("new", "cached") for kind in ("bench", "source", "pool")]
