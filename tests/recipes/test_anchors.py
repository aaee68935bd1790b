"""Relative paths of a recipe: a file's are relative to it, the command line's to the working directory."""

import json
from pathlib import Path

import pytest
from plans import by_name

from recipes.load import load
from recipes.rundir import resolved_yaml

OWN = """\
pool: {kind: file, source: data/pool.json, images: data}
base: {path: models/base}
train: {lr: 1}
name: own
arms: {a: {selector: random, budget: 5}}
"""


@pytest.fixture
def far(project, monkeypatch) -> Path:
    """own.yaml with its data in a folder that is not the working directory."""
    home = project / "home"
    (home / "data").mkdir(parents=True)
    (home / "data" / "pool.json").write_text("[]")
    (home / "own.yaml").write_text(OWN)
    (home / "models").mkdir()
    (project / "base").rename(home / "models" / "base")
    return home


def test_a_files_paths_are_relative_to_it_wherever_it_is_run(far, monkeypatch, tmp_path):
    recipe = load("home/own.yaml").recipe
    assert recipe.pool.source == str(far / "data" / "pool.json") and recipe.pool.images == str(far / "data")
    assert recipe.base.path == str(far / "models" / "base") and recipe.root == "."
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load(str(far / "own.yaml")).recipe == recipe


def test_paths_of_the_command_line_are_relative_to_the_working_directory(far, project):
    (project / "other.json").write_text("[]")
    given = load("home/own.yaml", ["pool.source=other.json"])
    assert given.recipe.pool.source == "other.json" and given.recipe.pool.images == str(far / "data")
    whole = load("home/own.yaml", ["pool={kind: file, source: other.json}"])
    assert whole.recipe.pool.source == "other.json", "its place is the command line's, not that of the file"


def test_each_file_has_its_own_folder(far, project):
    (project / "child.yaml").write_text("extends: home/own.yaml\nname: child\npool: {images: pictures}\n")
    pool = load("child.yaml").recipe.pool
    assert pool.source == str(far / "data" / "pool.json") and pool.images == str(project / "pictures")


def test_several_sources_and_a_home_directory(far):
    (far / "own.yaml").write_text(OWN.replace("data/pool.json", "[data/pool.json, ~/more.json, /abs.json]"))
    assert load("home/own.yaml").recipe.pool.source == [
        str(far / "data" / "pool.json"),
        "~/more.json",
        "/abs.json",
    ]


def test_a_name_stays_a_name(far):
    (far / "mini").mkdir()  # neither a suite nor a model of that name is hidden by a folder
    text = OWN.replace("models/base", "builtin:mini") + "evaluation: {suite: mini}\n"
    (far / "own.yaml").write_text(text)
    recipe = load("home/own.yaml").recipe
    assert recipe.base.path == "builtin:mini" and recipe.evaluation.suite == "mini"


def test_the_resolved_recipe_runs_from_anywhere(far, project, monkeypatch, tmp_path):
    (project / "ds.json").write_text(json.dumps({"zero_optimization": {"stage": 2}}))
    loaded = load("home/own.yaml", ["train.deepspeed=ds.json"])
    (tmp_path / "elsewhere").mkdir()
    written = resolved_yaml(loaded)
    monkeypatch.chdir(tmp_path / "elsewhere")
    Path("again.yaml").write_text(written)
    again = load("again.yaml").recipe
    assert again.train.deepspeed == str(project / "ds.json") and again.pool == loaded.recipe.pool


def test_where_a_prompt_set_lies_changes_no_hash(project):
    text = Path(__file__).parents[2].joinpath("curation/signals/raters/prompts/compact.yaml").read_text()
    before = None
    for folder in ("one", "two"):
        (project / folder).mkdir()
        (project / folder / "own_prompts.yaml").write_text(text)
        nodes = by_name(f"scorer.prompts={folder}/own_prompts.yaml")
        own = nodes["fit_rater[scorer]"].hash, nodes["compare"].hash
        assert before in (None, own)
        before = own
    (project / "two" / "own_prompts.yaml").write_text(text + "# other\n")
    assert by_name("scorer.prompts=two/own_prompts.yaml")["fit_rater[scorer]"].hash != before[0]
