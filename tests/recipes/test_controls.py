"""The controls that every comparison gets, and what decides whether they are trained."""

import json

import pytest
from plans import STAGES, by_name, plan

from recipes.controls import with_controls
from recipes.errors import RecipeError
from recipes.finished import find_results
from recipes.load import load
from recipes.plan import make_plan
from recipes.run import main

ON = "controls=on"
ADDED = ["mmssr.matched", "mmssr.tokens", "mmssr.compute", "balanced_30"]


def arms(*overrides: str) -> dict:
    """The arms of demo.yaml with its controls."""
    return with_controls(load("demo.yaml", [ON, *overrides]).recipe).recipe.arms


def roles(*overrides: str) -> dict[str, tuple[str | None, str | None]]:
    """(kind, arm that it is the control of) by arm, as the comparison is told."""
    runs = plan(ON, *overrides).nodes[-1].config["runs"]
    return {run["arm"]: (run["control"], run["control_of"]) for run in runs}


def test_every_comparison_has_its_controls_unless_they_are_switched_off(project):
    assert list(arms()) == ["mmssr", "random", "full", *ADDED]
    assert list(arms("controls=off")) == ["mmssr", "random", "full"]
    assert {name: arm.seeds for name, arm in arms().items() if name in ADDED} == dict.fromkeys(ADDED, 2)
    found = roles()
    assert found.pop("mmssr") == (None, None)
    assert found == {
        "random": ("random", None),
        "full": ("full", None),
        "mmssr.matched": ("matched", "mmssr"),
        "mmssr.tokens": ("tokens", "mmssr"),
        "mmssr.compute": ("compute", "mmssr"),
        "balanced_30": ("balanced", None),
        "zero": ("zero", None),
    }


@pytest.mark.parametrize(
    "kind, gone",
    [
        ("matched", "mmssr.matched"),
        ("tokens", "mmssr.tokens"),
        ("compute", "mmssr.compute"),
        ("balanced", "balanced_30"),
        ("zero", "zero"),
    ],
)
def test_each_can_be_switched_off_alone(project, kind, gone):
    assert set(roles()) - set(roles(f"controls.{kind}=off")) == {gone}


def test_controls_are_for_the_arms_that_are_named(project):
    more = ["arms.long={selector: length, budget: 10%}", "arms.again={selector: mmssr, budget: 30%}"]
    every = set(arms(*more))
    assert {"long.matched", "long.tokens", "again.compute", "balanced_10"} <= every
    assert "long.compute" not in every, "its selection costs nothing"
    named = set(arms(*more, "controls.arms=[long]"))
    assert every - named == {
        *ADDED,
        "again.matched",
        "again.tokens",
        "again.compute",
    }
    assert "balanced_10" in named
    with pytest.raises(RecipeError, match=r"controls.arms: `mmsr` is not an arm; did you mean `mmssr`\?"):
        arms("controls.arms=[mmsr]")


def test_what_the_recipe_has_already_is_not_doubled(project):
    own = [
        "arms.even={selector: random_balanced, budget: 30%, seeds: 5}",
        "arms.like={selector: matched_random, budget: 30%, reference: mmssr, params: {match: source}}",
    ]
    found = arms(*own)
    assert "balanced_30" not in found and "mmssr.matched" not in found
    assert not any(name.startswith(("even.", "like.")) for name in found), "a control has none of its own"
    assert roles(*own)["like"] == ("matched", "mmssr") and roles(*own)["even"] == ("balanced", None)


def test_another_arm_with_the_name_of_a_control_is_refused(project):
    with pytest.raises(RecipeError, match=r"arms.balanced_30: a control has this name.*balanced: false"):
        arms("arms.balanced_30={selector: random, budget: 10%}")
    with pytest.raises(RecipeError, match=r"arms.zero: the base model without SFT has this name"):
        arms("arms.zero={selector: random, budget: 10%}")


@pytest.mark.parametrize("budget", ["tokens:2e4", "flops:1e15"])
def test_a_budget_in_tokens_or_compute_is_matched_already(project, budget):
    found = arms(f"arms.mmssr.budget={budget}")
    assert "mmssr.matched" in found and not {"mmssr.tokens", "mmssr.compute"} & set(found)


def test_an_oracle_costs_nothing_that_could_be_spent_on_samples(project):
    assert "mmssr.compute" not in arms("arms.mmssr.signals=oracle")


def test_the_base_model_is_evaluated_as_it_is_once_for_all_pools(project):
    nodes = by_name(ON, "pool_seeds=3")
    assert nodes["answer[zero]"].inputs["model"].path == project / "base"
    compare = nodes["compare"]
    runs, evaluated = compare.config["runs"], compare.inputs["evaluates"]
    zero = [node for run, node in zip(runs, evaluated, strict=True) if run["arm"] == "zero"]
    assert zero == [nodes["evaluate[zero]"]] * 3
    assert [run["pool_seed"] for run in runs if run["arm"] == "zero"] == [0, 1, 2]
    selected = [run for run in runs if run["selector"] != "none"]
    assert len(selected) == len(runs) - 3 == len(compare.inputs["selects"]) == len(compare.inputs["trains"])
    assert not any("zero" in name for name in nodes if name.startswith(("select", "train")))


def test_a_control_reads_the_subset_that_it_is_for(project):
    nodes = by_name(ON)
    for kind in ("matched", "tokens"):
        assert nodes[f"select[mmssr.{kind},1]"].inputs["reference"] is nodes["select[mmssr,1]"]
    assert nodes["select[mmssr.compute,1]"].inputs["spender"] is nodes["select[mmssr,1]"]


# ------------------------------------------------------------------------------ after the selections


def lengths(ratio: float) -> str:
    """Notes of dummy selections, by the arm's selector, where the arm's samples are `ratio` times as long."""
    tokens = {
        "reference_rows": 180,
        "reference_tokens": round(18_000 * ratio),
        "pool_rows": 600,
        "pool_tokens": 60_000,
    }
    return json.dumps({"token_matched": tokens})


@pytest.mark.parametrize("ratio, needed", [(1.04, False), (0.96, False), (1.06, True), (0.9, True)])
def test_token_matched_is_trained_only_where_lengths_differ(
    project, executed, monkeypatch, capsys, ratio, needed
):
    monkeypatch.setenv("DUMMY_NOTES", lengths(ratio))
    before = plan(ON)
    assert {node.name for node in before.deciding} == {"select[mmssr.tokens,0]", "select[mmssr.compute,0]"}
    assert main(["demo.yaml", ON], "dummy_stages") == 0
    said = capsys.readouterr().out
    assert "2 selections come first" in said
    assert f"Control mmssr.tokens: {'needed' if needed else 'not needed, and not trained'}" in said
    trained = [path for path in (project / "runs" / "demo" / "stages").iterdir() if "train" in path.name]
    assert any("mmssr.tokens" in path.name for path in trained) == needed
    lineage = json.loads((project / "runs" / "demo" / "lineage.json").read_text())
    assert lineage["controls"]["mmssr.tokens"]["needed"] == needed
    after = plan(ON)
    assert not after.deciding and after.settled == lineage["controls"]
    assert after.nodes[-1].config["controls"] == lineage["controls"]
    # the same where nothing is in the store, if it is told what was decided
    elsewhere = make_plan(load("demo.yaml", [ON, "root=elsewhere"]), STAGES, settled=lineage["controls"])
    assert elsewhere.nodes[-1].hash == after.nodes[-1].hash
    count = len(executed())
    assert main(["demo.yaml", ON], "dummy_stages") == 0 and len(executed()) == count


@pytest.mark.parametrize(
    "note, full, needed",
    [
        ({"budget_above_pool": 1}, "on", False),
        ({}, "on", True),
        ({"budget_above_pool": 1}, "off", True),
        ({"cost_unknown": 1}, "on", False),
        ({"cost_unknown": 1}, "off", False),
    ],
)
def test_compute_matched_is_made_where_the_cost_is_known_and_less_than_the_pools(
    project, monkeypatch, note, full, needed
):
    notes = json.loads(lengths(1)) | {"random": note}
    monkeypatch.setenv("DUMMY_NOTES", json.dumps(notes))
    (project / "two.yaml").write_text(
        "name: two\nscale: tiny\narms: {mmssr: {selector: mmssr, budget: 30%}}\n"
        f"controls: {{full: {full}}}\ntrack: {{mode: disabled}}\n"
    )
    assert main(["two.yaml"], "dummy_stages") == 0
    assert ("train[mmssr.compute,0]" in by_name(file="two.yaml")) == needed


def test_results_on_another_machine_are_current_by_what_their_lineage_says(project, monkeypatch):
    monkeypatch.setenv("DUMMY_NOTES", lengths(1))
    assert main(["demo.yaml", ON], "dummy_stages") == 0
    copy = project / "elsewhere" / "runs" / "demo"
    copy.mkdir(parents=True)
    (copy / "comparison.json").write_text("{}")
    lineage = json.loads((project / "runs" / "demo" / "lineage.json").read_text())
    (copy / "lineage.json").write_text(json.dumps(lineage))
    found = find_results("demo.yaml", [ON, "root=elsewhere"], "dummy_stages")
    assert (found.folder, found.flaw, found.missing) == (copy, "", 0)
    (copy / "lineage.json").write_text(json.dumps(lineage | {"controls": {}}))
    assert find_results("demo.yaml", [ON, "root=elsewhere"], "dummy_stages").missing == 2


def test_what_is_forced_runs_once_although_selections_come_first(project, executed, monkeypatch):
    monkeypatch.setenv("DUMMY_NOTES", lengths(1))
    assert main(["demo.yaml", ON, "--until", "clean"], "dummy_stages") == 0
    before = executed()
    assert main(["demo.yaml", ON, "--force", "pool"], "dummy_stages") == 0
    after = executed()[len(before) :]
    assert len(after) == len(set(after))
    pool = next(node for node in plan(ON).nodes if node.kind == "pool")
    assert f"pool/{pool.hash[:12]}" in before and f"pool/{pool.hash[:12]}" in after


def test_stopping_before_the_trainings_decides_nothing(project, capsys):
    assert main(["demo.yaml", ON, "--until", "clean"], "dummy_stages") == 0
    assert "selections come first" not in capsys.readouterr().out


def test_a_dry_run_counts_what_may_not_be_needed_and_says_so(project, executed, capsys):
    assert main(["demo.yaml", ON, "--dry-run"], "dummy_stages") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "trained only if their selections show that they are needed" in said
    assert "counted here: mmssr.tokens, mmssr.compute" in said and "train[mmssr.tokens,0]" in said
    assert not executed()


@pytest.mark.parametrize(
    "kind, stage, said",
    [
        (
            "answer",
            "answer[zero]",
            "RuntimeError: told to fail; `controls: {zero: off}` leaves this control out",
        ),
        (
            "select",
            "select[mmssr.matched,0]",
            "RuntimeError: told to fail; `controls: {matched: off}` leaves",
        ),
        ("select", "select[mmssr,0]", "RuntimeError: told to fail\n"),
    ],
)
def test_a_control_that_fails_says_how_to_leave_it_out(project, monkeypatch, capsys, kind, stage, said):
    if kind == "select":
        assert main(["demo.yaml", ON, "--until", "select[mmssr,0]"], "dummy_stages") == 0
    monkeypatch.setenv("DUMMY_NOTES", lengths(1))
    monkeypatch.setenv("DUMMY_FAIL", kind)
    assert main(["demo.yaml", ON, "--until", stage, "--force", stage], "dummy_stages") == 1
    assert f"stage {stage} failed: {said}" in capsys.readouterr().err


# --------------------------------------------------------------------------------- the shipped recipes


def baseline(recipe: str, arm: str) -> dict[tuple[int, int], tuple[str, str]]:
    """(pool, seed) -> hashes of training and scores of an arm of random sampling."""
    compare = make_plan(load(recipe)).nodes[-1]
    return {
        (run["pool_seed"], run["train_seed"]): (node.inputs["answers"].inputs["model"].hash, node.hash)
        for run, node in zip(compare.config["runs"], compare.inputs["evaluates"], strict=True)
        if run["arm"] == arm
    }


def test_random_sampling_is_made_once_for_all_recipes_of_a_budget():
    blind, targeted = baseline("all_selectors_10pct", "random"), baseline("targeted_10pct", "random_10")
    assert blind == targeted and len(blind) >= 10 and len({pool for pool, _ in blind}) >= 3
    study = baseline("mini_study", "random_10")
    shared = study.keys() & blind.keys()
    assert len(study) >= 10 and len(shared) >= 3 and all(study[run] == blind[run] for run in shared)


def test_another_training_or_pool_is_another_baseline():
    first = baseline("mmssr_30pct", "random")
    assert not set(first.values()) & set(baseline("all_selectors_10pct", "random").values())
    assert len(set(first.values())) == len(first)


def test_scales_decide_the_seeds_of_arms_that_give_none(project):
    (project / "scales" / "tiny.yaml").open("a").write("seeds: 4\nrandom_seeds: 6\n")
    text = "name: x\nscale: tiny\narms:\n  a: {selector: length, budget: 10%}\n"
    (project / "x.yaml").write_text(
        f"{text}  b: {{selector: random, budget: 10%}}\n  c: {{selector: random, budget: 20%, seeds: 2}}\n"
    )
    arms = load("x.yaml").recipe.arms
    assert {name: arm.seeds for name, arm in arms.items()} == {"a": 4, "b": 6, "c": 2}
    assert load("x.yaml", ["seeds=1", "random_seeds=null"]).recipe.arms["b"].seeds == 1
