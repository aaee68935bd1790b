"""What is part of a result's identity: the hashes of a plan after a change, and damage in the store."""

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image

from curation import closure
from recipes import run, store
from recipes.code import Stages
from recipes.engine import task_of
from recipes.errors import StageError
from recipes.external import Fingerprints
from recipes.graph import store_path
from recipes.load import load
from recipes.plan import make_plan
from recipes.task import perform

MMSSR = ("mmssr_30pct.yaml", ("scale=smoke",))
EVERYTHING = ("all_selectors_10pct.yaml", ("scale=smoke",))
FITS = {"train", "answer", "evaluate", "signal", "fit_rater"}
"""Kinds of the stages that load a model."""


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """A copy of the project's sources, made once, so that most of its files are parsed only once."""
    copy = tmp_path_factory.mktemp("checkout")
    skipped = shutil.ignore_patterns("__pycache__", "results")
    for package in closure.PACKAGES:
        shutil.copytree(closure.REPOSITORY / package, copy / package, ignore=skipped)
    return copy


@pytest.fixture
def checkout(sources, monkeypatch):
    """The copy, which a test may change; closures are computed from it. It is restored afterwards."""
    original = closure.REPOSITORY
    times = {file: file.stat().st_mtime_ns for file in sources.rglob("*") if file.is_file()}
    monkeypatch.setattr(closure, "REPOSITORY", sources)
    yield sources
    for file in [file for file in sources.rglob("*") if file.is_file()]:
        if file not in times:
            file.unlink()
        elif file.stat().st_mtime_ns != times[file]:
            shutil.copy2(original / file.relative_to(sources), file)


def hashes(file: str = MMSSR[0], overrides=MMSSR[1], cache: Path | None = None) -> dict[str, str]:
    for cached in (closure.source, closure._code_hash):
        cached.cache_clear()
    plan = make_plan(load(file, overrides), Stages(), Fingerprints(cache))
    return {node.name: node.hash for node in plan.nodes}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    assert before.keys() == after.keys()
    return {name.partition("[")[0] for name in before if before[name] != after[name]}


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


# -------------------------------------------------------------------------- the project's code


def test_a_changed_docstring_changes_no_hash(checkout):
    before = hashes()
    edit(checkout / "training/render.py", '"""', '"""Reworded. ')
    with (checkout / "training/render.py").open("a") as file:
        file.write("\n\n# a remark at the end\n")
    assert hashes() == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "file, old, new, kinds",
    [
        (
            "curation/signals/core/table.py",
            "OWN_KEYS = {",
            'OWN_KEYS = {"x", ',
            {"signal", "select", "compare"},
        ),
        ("curation/selectors/contract.py", "(rows, pool_size)", "(rows, pool_size + 0)", {"select"}),
        ("recipes/stages/signal.py", "RESUMES = True", "RESUMES = 1", {"signal"}),
        ("recipes/stages/serving.py", "def counted(", "def _x(): ...\n\n\ndef counted(", {"signal"}),
        ("training/hub.py", "FILES = [", 'FILES = ["*.md", ', FITS),
        ("evaluation/aggregate.py", "import ", "import os as _os\nimport ", {"compare"}),
        ("training/render.py", "IGNORE = -100", "IGNORE = -101", FITS),
        ("curation/mini/names.yaml", "[pin, balloon, pop]", "[pin, balloon, burst]", {"bench", "source"}),
        ("training/templates/llava_onevision.jinja", "assistant", "helper", {"train", "answer"}),
    ],
)
def test_a_changed_statement_changes_the_stages_that_import_it(checkout, file, old, new, kinds):
    before = hashes()
    edit(checkout / file, old, new)
    assert changed(before, hashes()) >= kinds


def test_a_new_selector_signal_or_data_file_changes_no_hash(checkout):
    """Registries and folders of data files are read by the planner only, so a new entry reruns nothing."""
    before = hashes(*EVERYTHING)
    edit(checkout / "curation/selectors/registry.py", '"all",', '"all", "new",')
    edit(
        checkout / "curation/catalogue.py",
        "SIGNALS: tuple[Signal, ...] = (",
        "SIGNALS: tuple[Signal, ...] = (Signal('n', 'n', 'n:n', 'n'),",
    )
    (checkout / "curation/selectors/new.py").write_text("def select(columns, budget, seed): ...\n")
    (checkout / "evaluation/suites/other.yaml").write_text("name: other\n")
    (checkout / "evaluation/tasks/mini/unrelated.yaml").write_text("task: unrelated\n")
    (checkout / "training/deepspeed/mine.json").write_text("{}")
    (checkout / "curation/signals/raters/prompts/mine.yaml").write_text("a: 1\n")
    assert hashes(*EVERYTHING) == before


# -------------------------------------------------------------------------- files in a config


def test_what_decides_in_a_deepspeed_file_is_hashed(project):
    """Where states lie is not part of a result's identity; the optimizer is."""
    (project / "ds.json").write_text('{"optimizer": {"type": "Adam"}, "zero_optimization": {"stage": 2}}')
    before = hashes("demo.yaml", ["train.deepspeed=ds.json"])
    (project / "ds.json").write_text('{"optimizer": {"type": "Adam"}, "zero_optimization": {"stage": 3}}')
    assert hashes("demo.yaml", ["train.deepspeed=ds.json"]) == before
    (project / "ds.json").write_text('{"optimizer": {"type": "Lamb"}, "zero_optimization": {"stage": 3}}')
    assert changed(before, hashes("demo.yaml", ["train.deepspeed=ds.json"])) == {
        "train",
        "answer",
        "evaluate",
        "compare",
    }


def test_an_external_suite_is_hashed_with_its_tasks_and_nothing_beside_them(project):
    suite = yaml.safe_load((closure.REPOSITORY / "evaluation/suites/mini.yaml").read_text())
    tasks = project / "tasks"
    shutil.copytree(closure.REPOSITORY / "evaluation/tasks/mini", tasks)
    (project / "mine.yaml").write_text(yaml.safe_dump({**suite, "tasks": str(tasks)}))
    ask = ("demo.yaml", ["evaluation.suite=mine.yaml"])
    before = hashes(*ask)
    (project / "beside.yaml").write_text("name: other\n")
    (tasks / "unrelated.yaml").write_text("task: unrelated\n")
    (tasks / "unrelated.py").write_text("x = 1\n")
    assert hashes(*ask) == before
    edit(tasks / "functions.py", '"""', '"""Reworded. ')
    assert hashes(*ask) == before
    edit(tasks / "functions.py", "import ", "import os as _os\nimport ")
    assert changed(before, hashes(*ask)) == {"leaks", "answer", "evaluate", "compare"}
    before = hashes(*ask)
    edit(tasks / "mini.yaml", "max_new_tokens: 48", "max_new_tokens: 24")
    assert changed(before, hashes(*ask)) == {"leaks", "answer", "evaluate", "compare"}
    before = hashes(*ask)
    shorter = {**suite, "tasks": str(tasks), "benchmarks": suite["benchmarks"][:-1]}
    (project / "mine.yaml").write_text(yaml.safe_dump(shorter))
    after = hashes(*ask)
    assert changed(before, after) == {"leaks", "answer", "evaluate", "compare"}
    shorter["benchmarks"][0]["chance"] = 0.5
    (project / "mine.yaml").write_text(yaml.safe_dump(shorter))
    assert changed(after, hashes(*ask)) == {"leaks", "evaluate", "compare"}, "no model is asked again"


def test_the_content_of_a_prompt_file_is_hashed(project):
    prompts = project / "mine.yaml"
    shutil.copy(closure.REPOSITORY / "curation/signals/raters/prompts/compact.yaml", prompts)
    ask = ("demo.yaml", ["scorer.prompts=mine.yaml"])
    before = hashes(*ask)
    edit(prompts, "{phrase}", "{phrase} please")
    assert "fit_rater" in changed(before, hashes(*ask)) and "labels" not in changed(before, hashes(*ask))


# -------------------------------------------------------------------------- images


@pytest.fixture
def own_pool(project):
    """A recipe on a LLaVA file that names two images, and a third image beside them."""
    (project / "images").mkdir()
    for name in ("a", "b", "beside"):
        Image.new("RGB", (8, 8), "red").save(project / f"images/{name}.png")
    turns = [{"from": "human", "value": "<image> what ?"}, {"from": "gpt", "value": "red"}]
    records = [{"id": name, "image": f"{name}.png", "conversations": turns} for name in ("a", "b")]
    (project / "data.json").write_text(json.dumps(records))
    (project / "own.yaml").write_text(
        "name: own\nscale: tiny\npool: {kind: llava, source: data.json, images: images}\n"
        "arms: {a: {selector: random, budget: 1}}\n"
    )
    return project


def test_a_replaced_image_changes_all_dependent_stages(own_pool):
    cache = own_pool / "store" / "fingerprints"
    cache.parent.mkdir()
    before = hashes("own.yaml", (), cache)
    assert list(cache.glob("images-*.parquet"))
    Image.new("RGB", (8, 8), "blue").save(own_pool / "images/beside.png")
    (own_pool / "images/new.txt").write_text("x")
    os.utime(own_pool / "images/a.png", (1, 1))  # touched, not changed
    assert hashes("own.yaml", (), cache) == before
    Image.new("RGB", (8, 8), "blue").save(own_pool / "images/b.png")
    assert changed(before, hashes("own.yaml", (), cache)) >= {
        "pool",
        "select",
        "train",
        "answer",
        "evaluate",
        "compare",
    }
    (own_pool / "images/b.png").unlink()
    assert "pool" in changed(before, hashes("own.yaml", (), cache))


def test_images_are_read_once(own_pool, monkeypatch):
    cache = own_pool / "store" / "fingerprints"
    cache.parent.mkdir()
    before = hashes("own.yaml", (), cache)
    import hashlib

    plain = hashlib.file_digest
    monkeypatch.setattr(
        hashlib,
        "file_digest",
        lambda f, kind: pytest.fail(f.name) if f.name.endswith(".png") else plain(f, kind),
    )
    assert hashes("own.yaml", (), cache) == before


@pytest.mark.parametrize("content", [b"", b"not parquet", b"PAR1"])
def test_a_damaged_cache_of_image_hashes_is_ignored(own_pool, content):
    cache = own_pool / "store" / "fingerprints"
    cache.parent.mkdir()
    before = hashes("own.yaml", (), cache)
    next(cache.glob("images-*.parquet")).write_bytes(content)
    assert hashes("own.yaml", (), cache) == before


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 3}'])
def test_a_damaged_cache_of_file_hashes_is_ignored(tmp_path, content):
    (tmp_path / "files.json").write_text(content)
    assert Fingerprints(tmp_path).known == {}


# -------------------------------------------------------------------------- artefacts


def executed_kinds(executed) -> list[str]:
    return [line.split("/")[0] for line in executed()]


def test_weights_zeroed_at_equal_size_are_rebuilt(project, executed, capsys):
    assert run.main(["demo.yaml"], "dummy_stages") == 0
    first, report = len(executed()), Path("runs/demo/part-0.txt").read_bytes()
    weights = Path("runs/demo/stages/train[mmssr,0]/part-1.txt").resolve()
    weights.write_bytes(bytes(weights.stat().st_size))
    capsys.readouterr()
    assert run.main(["demo.yaml"], "dummy_stages") == 0
    assert executed_kinds(executed)[first:] == ["train"], "its content is as before, so nothing else reruns"
    out = capsys.readouterr().out
    assert "train[mmssr,0]: damaged: the content of part-1.txt has changed; rebuilding it" in out
    assert Path("runs/demo/part-0.txt").read_bytes() == report


def test_a_stage_whose_input_has_changed_is_stale(project, executed, capsys):
    """An input that is rebuilt with other content invalidates the stages that were built from it."""
    assert run.main(["demo.yaml"], "dummy_stages") == 0
    first = len(executed())
    pool = Path("runs/demo/stages/select[random,0]").resolve()
    record = store.read_record(pool)
    (pool / "part-0.txt").write_text("another subset")
    store.finish(pool, store.read_done(pool).hash, record)
    assert run.main(["demo.yaml"], "dummy_stages") == 0
    assert executed_kinds(executed)[first:] == ["train", "answer", "evaluate", "compare"]
    out = capsys.readouterr().out
    assert "train[random,0]: stale: the content of its input `subset` has changed since; rebuilding it" in out


def test_an_input_damaged_during_the_run_is_refused(project, executed):

    assert run.main(["demo.yaml", "--until", "select"], "dummy_stages") == 0
    plan = make_plan(load("demo.yaml"), Stages("dummy_stages"))
    train = next(n for n in plan.nodes if n.name == "train[random,0]")
    subset = store_path(Path(".").resolve(), "select", train.inputs["subset"].hash)
    (subset / "part-2.txt").write_text("x")
    task = task_of(train, Path(".").resolve(), plan, {})
    with pytest.raises(
        StageError, match=r"input .*/store/select/\w+ is damaged: part-2.txt has .*run the same command again"
    ):
        perform(task, progress=None)


def test_lineage_lists_the_environment_of_each_stage(project, monkeypatch):
    assert run.main(["demo.yaml", "--until", "select"], "dummy_stages") == 0
    monkeypatch.setattr("recipes.rundir.versions", lambda: {"python": "3.99", "torch": "9.9"})
    assert run.main(["demo.yaml"], "dummy_stages") == 0
    lineage = json.loads(Path("runs/demo/lineage.json").read_text())
    assert len(lineage["environments"]) == 2
    made_by = {
        name: lineage["environments"][s["environment"]]["versions"]["python"]
        for name, s in lineage["stages"].items()
    }
    assert (
        made_by["train[random,0]"] == made_by["compare"] == "3.99"
        and made_by["pool"] == made_by["select[random,0]"] != "3.99"
    )
    for name, stage in lineage["stages"].items():
        artefact = Path(f"runs/demo/stages/{name}").resolve()
        assert (
            stage["root"] == store.read_done(artefact).root
            and stage["seconds"] == store.read_record(artefact)["seconds"]
        )


def test_a_comparison_of_mixed_versions_and_commits_reports_them(tmp_path):
    from recipes.stages.report_context import _mixed

    for name, torch, commit in (("a", "2.11", "c" * 40), ("b", "2.13", "c" * 40), ("c", "2.13", "d" * 40)):
        (tmp_path / name).mkdir()
        record = {"versions": {"torch": torch, "peft": "0.21"}, "commit": commit}
        (tmp_path / name / "stage.json").write_text(json.dumps(record))
    (tmp_path / "suite.yaml").write_text("x")
    inputs = {
        "pool": tmp_path / "a",
        "trains": [tmp_path / "b", tmp_path / "c"],
        "suite": tmp_path / "suite.yaml",
    }
    commits, libraries = _mixed(inputs)
    assert "made at different commits: cccccccccccc (2 stages), dddddddddddd (1 stages)" in commits
    assert "made with different versions of torch: 2.13 (2 stages), 2.11 (1 stages)" in libraries
    assert list(_mixed({"pool": tmp_path / "a"})) == []
