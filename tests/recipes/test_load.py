"""Recipe files: merging, overrides, and a clear error for everything that can be wrong with them."""

import json

import pytest

from recipes.errors import RecipeError
from recipes.load import load
from recipes.rundir import resolved_yaml


def edit(project, old, new):
    text = (project / "demo.yaml").read_text()
    assert old in text
    (project / "demo.yaml").write_text(text.replace(old, new))


def problem(*overrides, file="demo.yaml"):
    with pytest.raises(RecipeError) as caught:
        load(file, overrides)
    return str(caught.value)


def test_scale_supplies_the_protocol(project):
    loaded = load("demo.yaml")
    assert loaded.recipe.pool.size == 600
    assert loaded.recipe.train.lr == 1e-3  # YAML 1.1 alone reads 1e-3 as text
    assert loaded.recipe.arms["full"].budget == "100%"
    assert loaded.protocol == "standard"


def test_another_scale_gives_another_experiment(project):
    (project / "scales" / "other.yaml").write_text((project / "scales" / "tiny.yaml").read_text())
    assert load("demo.yaml", ["scale=other"]).recipe.name == "demo.other", (
        "its run directory must not replace that of the recipe's own scale"
    )
    assert load("demo.yaml", ["scale=tiny"]).recipe.name == "demo"
    assert load("demo.yaml", ["scale=other", "name=mine"]).recipe.name == "mine"


def test_suffix_may_be_left_out(project):
    assert load("demo").recipe.name == "demo"


def test_a_file_of_the_project_is_found_by_bare_name(project, monkeypatch, tmp_path):
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    (project / "demo.yaml").rename(shipped / "elsewhere.yaml")
    (project / "scales").rename(shipped / "scales")
    monkeypatch.setattr("recipes.load.HERE", shipped)
    assert load("elsewhere.yaml").recipe.name == "demo"


def test_file_in_the_current_directory_wins(project, monkeypatch, tmp_path):
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    (shipped / "demo.yaml").write_text("name: other\n")
    monkeypatch.setattr("recipes.load.HERE", shipped)
    assert load("demo.yaml").recipe.name == "demo"


def test_child_wins_over_parent_and_recipe_over_scale(project):
    (project / "child.yaml").write_text(
        "extends: demo.yaml\nname: child\narms: {random: {budget: 10%}}\ntrain: {lr: 2}\n"
    )
    loaded = load("child.yaml")
    random = loaded.recipe.arms["random"]
    assert (loaded.recipe.name, random.budget, random.seeds) == ("child", "10%", 2)
    assert loaded.recipe.train.lr == 2
    assert loaded.recipe.train.batch_size == 16
    assert loaded.modified == ("train.lr",)


def test_a_scale_may_extend_a_scale(project):
    (project / "scales" / "less.yaml").write_text("extends: tiny.yaml\npool: {size: 100}\n")
    loaded = load("demo.yaml", ["scale=less"])
    assert (loaded.recipe.pool.size, loaded.recipe.bench.items, loaded.protocol) == (100, 30, "standard")


@pytest.mark.parametrize(
    "override, modified",
    [
        ("train.lr=0.5", ("train.lr",)),
        ("train.deepspeed=zero2", ()),
        ("train={deepspeed: zero2, precision: bf16}", ("train.deepspeed", "train.precision")),
        ("train.deepspeed=own.json", ("train.deepspeed",)),
        ("train.deepspeed=nowhere", ("train.deepspeed",)),  # refused when it is planned
        ("train={processes: 8, nodes: 2, save_minutes: 5, workers: 2, micro_batch: 3}", ()),
        ("seed_model.train.save_steps=7", ()),
        ("train={processes: 8, loss_norm: microbatch}", ("train.loss_norm", "train.processes")),
        ("train.max_bad_fraction=0.5", ("train.max_bad_fraction",)),
        ("pool.defects.near_duplicates=0.5", ("pool.defects.near_duplicates",)),
        ("limit=10", ("limit",)),
        ("seed_model.train.lora=null", ("seed_model.train.lora",)),
        ("train.lr=1e-3", ()),  # the value of the scale
        ("resources.workers=7", ()),
        ("track.mode=disabled", ()),
        ("root=elsewhere", ()),
        ("arms.random.seeds=5", ()),
    ],
)
def test_an_override_of_a_frozen_key_is_stamped(project, override, modified):
    (project / "own.json").write_text(json.dumps({"optimizer": {"type": "SGD"}}))
    loaded = load("demo.yaml", [override])
    assert loaded.modified == modified
    assert loaded.protocol == ("modified" if modified else "standard")


def test_a_recipe_without_scale_has_a_modified_protocol(project):
    edit(project, "scale: tiny\n", (project / "scales" / "tiny.yaml").read_text())
    assert load("demo.yaml").protocol == "modified"


@pytest.mark.parametrize(
    "seeds, train_seeds, runs",
    [
        ("2", None, [(0, 0), (1, 1)]),
        ("[4, 7]", None, [(4, 4), (7, 7)]),
        ("2", "2", [(0, 0), (0, 1), (1, 0), (1, 1)]),
        ("[3]", "[5, 6]", [(3, 5), (3, 6)]),
    ],
)
def test_seeds(project, seeds, train_seeds, runs):
    extra = [f"arms.random.train_seeds={train_seeds}"] if train_seeds else []
    assert load("demo.yaml", [f"arms.random.seeds={seeds}", *extra]).recipe.arms["random"].runs() == runs


def test_the_whole_pool_has_no_selection_seed(project):
    assert load("demo.yaml", ["arms.full.seeds=3"]).recipe.arms["full"].runs() == [(0, 0), (0, 1), (0, 2)]


# ------------------------------------------------------------------------------------------ errors


def test_missing_file(project):
    assert "recipe file dem.yaml does not exist in" in problem(file="dem.yaml")


def test_bad_yaml_names_file_and_line(project):
    edit(project, "scale: tiny", "scale: [tiny")
    assert "demo.yaml:4: not valid YAML" in problem()


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "text"])
def test_not_a_mapping(project, text):
    (project / "demo.yaml").write_text(text)
    assert "a recipe must be a mapping" in problem()


def test_not_text(project):
    (project / "demo.yaml").write_bytes(b"name: \xff\xfe\n")
    assert "not UTF-8" in problem()


def test_key_written_twice(project):
    edit(project, "reference: full\n", "reference: full\nname: again\n")
    assert "demo.yaml:13: name: written twice, first at" in problem()


def test_unknown_key_names_file_line_path_and_nearest(project):
    edit(project, "    seeds: 2", "    seed: 2")
    message = problem()
    assert "demo.yaml:8: arms.mmssr.seed: unknown key; did you mean `seeds`?" in message
    assert str(project) in message


@pytest.mark.parametrize(
    "override, key, nearest",
    [
        ("basline=random", "basline", "baseline"),
        ("train.batchsize=3", "train.batchsize", "batch_size"),
        ("pool.sise=3", "pool.sise", "size"),
        ("pool.defects.leak=0.1", "pool.defects.leak", "leaks"),
        ("seed_model.train.lora.alhpa=3", "seed_model.train.lora.alhpa", "alpha"),
        ("track.mod=online", "track.mod", "mode"),
    ],
)
def test_unknown_key_on_the_command_line(project, override, key, nearest):
    assert problem(override) == f"command line `{override}`: {key}: unknown key; did you mean `{nearest}`?"


def test_unknown_key_in_the_scale_names_the_scale(project):
    with (project / "scales" / "tiny.yaml").open("a") as file:
        file.write("scoring: {batchsize: 3}\n")
    assert "tiny.yaml:10: scoring.batchsize: unknown key; did you mean `batch_size`?" in problem()


@pytest.mark.parametrize(
    "override, allowed",
    [
        ("train.batch_size=many", "valid integer"),
        ("train.batch_size=0", "greater than 0"),
        ("arms.random.seeds=0", "greater than or equal to 1"),
        ("arms.random.seeds=true", "valid integer"),
        ("arms.random.seeds=[]", "at least 1 item"),
        ("resources.executor=threads", "'inline' or 'pool'"),
        ("track.mode=on", "'offline', 'online' or 'disabled'"),
        ("pool.kind=coco", "must be one of 'mini', 'file'"),
        ("arms=3", "valid dictionary"),
        ("pool.defects.leaks=1.5", "less than 1"),
        ("scorer.holdout=1.5", "less than or equal to 1"),
        ("name=a/b/c", "pattern"),
        ("name=../b", "pattern"),
        ("name=..", "pattern"),
        ("pool.size=lots", "valid integer"),
        ("limit=0", "greater than or equal to 1"),
        ("train.freeze=[eyes]", "'vision', 'projector' or 'language'"),
    ],
)
def test_bad_value_says_what_is_allowed(project, override, allowed):
    message = problem(override)
    assert message.startswith(f"command line `{override}`: {override.partition('=')[0]}: ")
    assert allowed in message


@pytest.mark.parametrize("budget", ["0", "0%", "-5", "101%", "1000%", "30 percent", "-3%", "''", "nan%"])
def test_budget_outside_the_pool(project, budget):
    message = problem(f"arms.random.budget={budget}")
    assert "arms.random.budget: " in message
    assert "30%" in message  # what is allowed


def test_budget_above_the_pool(project):
    assert "requested 601 samples, the pool has only 600" in problem("arms.random.budget=601")
    assert "requested 200 samples, the pool has only 100" in problem("arms.random.budget=200", "limit=100")
    assert load("demo.yaml", ["arms.random.budget=600"]).recipe.arms["random"].budget == 600


def test_budgets_that_mean_the_same_are_the_same(project):
    assert load("demo.yaml", ["arms.random.budget=30.0 %"]).recipe.arms["random"].budget == "30%"


def test_the_selector_all_allows_no_budget(project):
    assert "arms.full" in (message := problem("arms.full.budget=30%"))
    assert "whole pool" in message


def test_unknown_selector_names_the_nearest(project):
    message = problem("arms.random.selector=randon")
    assert "arms.random.selector" in message
    assert "random" in message.partition("unknown selector 'randon'")[2]


def test_unknown_selector_parameter(project):
    assert "no parameter 'bin'" in problem("arms.mmssr.params.bin=style")


def test_missing_key(project):
    edit(project, "    selector: mmssr\n", "")
    assert "demo.yaml:5: arms.mmssr.selector: missing (a name from curation/selectors" in problem()


def test_missing_section(project):
    edit(project, "scale: tiny\n", "")
    assert "pool: missing; give it, or a `scale:`" in problem()


def test_missing_arms(project):
    (project / "demo.yaml").write_text("name: demo\nscale: tiny\n")
    assert "arms: missing" in problem()


def test_unknown_scale(project):
    assert "scale `tinny` does not exist; did you mean `tiny`?" in problem("scale=tinny")


def test_unknown_parent(project):
    edit(project, "name: demo", "extends: gone.yaml\nname: demo")
    assert "demo.yaml:1: extends: file gone.yaml does not exist in" in problem()


@pytest.mark.parametrize(
    "parents", [{"demo.yaml": "demo.yaml"}, {"demo.yaml": "b.yaml", "b.yaml": "demo.yaml"}]
)
def test_circular_extends(project, parents):
    for child, parent in parents.items():
        (project / child).write_text(f"extends: {parent}\n")
    assert f"extends: circular: {' -> '.join(parents)} -> demo.yaml" in problem()


def test_baseline_is_an_arm(project):
    edit(project, "baseline: random", "baseline: randm")
    assert "demo.yaml:11: baseline: `randm` is not an arm; did you mean `random`?" in problem()


@pytest.mark.parametrize("override", ["lr", "=3", "train..lr=3", "--lr"])
def test_override_without_key_or_value(project, override):
    assert "is not an override; write key=value" in problem(override)


def test_override_with_bad_yaml(project):
    assert "the value is not valid YAML" in problem("train.lr=[3")


def test_a_seed_has_one_place(project):
    assert "train.seed: every arm has its own seed" in problem("train.seed=3")
    assert "scorer.train.seed: this training is seeded by scorer.seed" in problem("scorer.train.seed=3")


def test_all_problems_are_listed_at_once(project):
    assert len(problem("train.lr=x", "nam=3", "limit=0").splitlines()) == 3


def test_goal_base_requires_its_section(project):
    (project / "base.yaml").write_text("name: b\ngoal: base\n")
    assert "pretrain: missing" in problem(file="base.yaml")
    (project / "base.yaml").write_text("name: b\ngoal: base\npretrain: {steps: 3}\n")
    assert load("base.yaml").recipe.pretrain == {"steps": 3}


def test_a_scale_names_a_preset_and_a_recipe_changes_some_of_it(project):
    scale = project / "scales" / "tiny.yaml"
    lines = [line for line in scale.read_text().splitlines() if not line.startswith("train:")]
    scale.write_text("\n".join([*lines, "train: {preset: onevision_si_7b, batch_size: 8}"]) + "\n")
    loaded = load("demo.yaml")
    assert loaded.protocol == "standard" and loaded.recipe.train.lr == 1e-5
    assert loaded.presets() == {"train": {"name": "onevision_si_7b", "changed": ["batch_size"]}}
    changed = load("demo.yaml", ["train.lr=2e-5", "train.part_lr.vision=1e-6"])
    assert changed.modified == ("train.lr", "train.part_lr.vision")
    assert changed.presets()["train"]["changed"] == ["batch_size", "lr", "part_lr.vision"]
    other = load("demo.yaml", ["train.preset=llava15_lora"])
    assert other.recipe.train.lora.r == 128 and other.recipe.train.batch_size == 8
    assert "train.lora" in other.modified and other.presets()["train"]["name"] == "llava15_lora"


def test_a_resolved_recipe_keeps_the_preset_and_what_was_changed(project):
    loaded = load("demo.yaml", ["train.preset=mmssr_subset_sft", "seed_model.train.preset=llava15_lora"])
    text = resolved_yaml(loaded)
    changed = loaded.presets()["train"]["changed"]
    assert f"# train: preset mmssr_subset_sft, changed: {', '.join(changed)}" in text and "lr" in changed
    (project / "again.yaml").write_text(text)
    again = load("again.yaml")
    assert again.recipe == loaded.recipe and again.presets() == loaded.presets()


def test_an_unknown_preset_names_its_line_and_those_that_exist(project):
    edit(project, "arms:", "train: {preset: llava15_ful}\narms:")
    message = problem()
    assert "demo.yaml:" in message and "train: preset 'llava15_ful' does not exist" in message
    assert "did you mean llava15_full?" in message
