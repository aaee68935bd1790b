"""What a dry run says of the smallest difference that a recipe can find."""

import json
from dataclasses import asdict

import pytest
from plans import plan

from evaluation.comparison import Components
from evaluation.statistics.power import smallest_effect
from recipes import smallest_effect as module
from recipes.run import main
from recipes.smallest_effect import ASSUMED, Repeated, baseline_of, effect_lines, repeated

SEEN = Components(pools=0.5, seeds=0.4, base_seeds=0.3, questions=0.2, answers=None)


@pytest.fixture
def unshipped(project, monkeypatch):
    """A project for which nothing is shipped."""
    monkeypatch.setattr(module, "RESULTS", project / "shipped")
    return project


def result(folder, base: str, suite: str = "mini", components: Components = SEEN) -> None:
    """The files of an earlier comparison."""
    folder.mkdir(parents=True)
    claim = {"family": 2, "components": asdict(components)}
    arms = [{"arm": "random", "claim": None}, {"arm": "mmssr", "claim": claim}]
    (folder / "comparison.json").write_text(json.dumps({"suite": {"name": suite}, "arms": arms}))
    stage = {"kind": "train", "inputs": {"base": {"hash": base}}}
    (folder / "lineage.json").write_text(json.dumps({"stages": {"train[random,0]": stage}}))


def said(*overrides: str, root) -> str:
    return "\n".join(effect_lines(plan(*overrides), root))


def test_the_design_is_that_of_the_plan(unshipped):
    more = ["controls=on", "pool_seeds=4", "arms.random.seeds=5", "arms.mmssr.train_seeds=2"]
    config = plan(*more).nodes[-1].config
    # mmssr, its three controls and the balanced one; neither full nor zero
    assert repeated(config) == Repeated(pools=4, seeds=2, base_seeds=5, family=5)
    assert repeated(plan("baseline=null").nodes[-1].config) is None
    assert said("baseline=null", root=unshipped) == ""


def test_without_an_earlier_result_the_assumption_is_stated(unshipped):
    effect = smallest_effect(Components(**ASSUMED), 3, 2, 2, 1)
    assert said("pool_seeds=3", root=unshipped) == (
        "smallest difference that can be found: not known before a first result of this base and suite; "
        f"{effect:.2f} points with 80 % power, at once for 1 difference (3 pools, 2 seeds of an arm and 2 of "
        "its baseline on each), if seeds have a standard deviation of 0.75 points, pools one of 0.8, and "
        "questions none"
    )


@pytest.mark.parametrize("where", ["runs", "shipped"])
def test_variances_are_those_of_earlier_results_of_the_same_base_and_suite(unshipped, where):
    base = plan().nodes[-1].inputs["trains"][0].inputs["base"].hash
    result(unshipped / where / "good", base)
    large = Components(9.0, 9.0, 9.0, 9.0, None)
    result(unshipped / where / "other_base", "f" * 64, components=large)
    result(unshipped / where / "other_suite", base, "mm14", large)
    effect = smallest_effect(SEEN, 3, 2, 2, 1)
    line = said("pool_seeds=3", root=unshipped)
    assert f"found: {effect:.2f} points" in line and line.endswith("variances seen in good")


def test_results_of_the_users_own_come_before_those_shipped(unshipped):
    base = plan().nodes[-1].inputs["trains"][0].inputs["base"].hash
    result(unshipped / "runs" / "mine", base)
    result(unshipped / "shipped" / "theirs", base)
    assert said("pool_seeds=3", root=unshipped).endswith("variances seen in mine")


def test_one_repetition_finds_nothing(unshipped):
    assert "can be found: none" in said("arms.mmssr.seeds=1", root=unshipped)
    assert "points" in said("arms.mmssr.seeds=1", "arms.random.seeds=1", "pool_seeds=3", root=unshipped)


def test_a_control_that_costs_as_much_as_an_arm_has_its_baseline():
    runs = [
        {"arm": "a", "budget": "30%", "control_of": None},
        {"arm": "a.compute", "budget": "as:a", "control_of": "a"},
        {"arm": "b", "budget": "10%", "control_of": None},
    ]
    config = {"baseline": {"30%": "r"}, "runs": runs}
    assert [baseline_of(run, config) for run in runs] == ["r", "r", None]


def test_a_dry_run_says_it(unshipped, capsys):
    assert main(["demo.yaml", "--dry-run"], "dummy_stages") == 0
    assert "smallest difference that can be found: " in capsys.readouterr().out
