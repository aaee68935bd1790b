"""What the arms of a plan cost: which stages count for which arm, and what their rule says."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from curation import catalogue
from recipes.code import Stages
from recipes.graph import Node, store_path
from recipes.load import load
from recipes.plan import make_plan
from recipes.plan_steps import beyond_pool, places, step_of
from recipes.planned_costs import planned_costs
from recipes.run import main
from recipes.selection_costs import Costs, charged, total, used_gpus
from recipes.signal_flops import SIGNALS
from recipes.stage_flops import StageFlops
from recipes.steps import Step
from recipes.training_costs import TrainingCosts
from training.estimate.lengths import Lengths
from training.estimate.passes import forward
from training.estimate.shapes import Shape

MINI = Path(__file__).resolve().parents[2] / "curation" / "mini" / "base"
OFF = "controls=off"


@pytest.fixture
def real(project):
    """The project with the mini world's base in place of the dummy one."""
    for file in MINI.iterdir():
        shutil.copy(file, project / "base" / file.name)
    return project


def planned(*overrides):
    """(recipe, plan) with dummy stages, without controls unless they are asked for."""
    loaded = load("demo.yaml", [OFF, *overrides])
    return loaded, make_plan(loaded, Stages("dummy_stages"))


def costs_of(root, *overrides):
    """{arm: Cost} that the plan expects, and its notes."""
    loaded, plan = planned(*overrides)
    costs = planned_costs(plan, TrainingCosts(loaded, root), {})
    return costs.by_arm(), costs.notes()


def stages_of(plan, name):
    """Names of the stages that the subset `name` needs beyond its pool."""
    nodes = {node.name: node for node in plan.nodes}
    return {node.name for node in beyond_pool(nodes[name], [nodes["tokens"]])}


def test_a_subset_costs_what_a_random_one_does_not_need(project):
    _, plan = planned()
    assert stages_of(plan, "select[random,0]") == {"select[random,0]"}
    own = stages_of(plan, "select[mmssr,0]")
    assert own == {
        "select[mmssr,0]",
        "labels",
        "fit_rater[scorer]",
        "fit_rater[styler]",
        "signal[capability]",
        "signal[style]",
    }


def test_random_spends_nothing_and_a_method_what_its_stages_take(real):
    costs, _ = costs_of(real)
    assert costs["random"].selection_flops == 0 == costs["full"].selection_flops
    assert costs["random"].training_flops == costs["mmssr"].training_flops > 0
    loaded, plan = planned()
    steps = {node.hash: step_of(node) for node in plan.nodes}
    pools, trainings = {node.hash: node for node in plan.nodes}, TrainingCosts(loaded, real)
    rule = StageFlops(
        steps, places(plan.nodes), lambda pool, shape: trainings.samples(pools[pool], shape), exact=False
    )
    by_name = {node.name: rule.of(steps[node.hash]) for node in plan.nodes}
    parts = ("fit_rater[scorer]", "fit_rater[styler]", "signal[capability]", "signal[style]")
    assert costs["mmssr"].selection_flops == sum(by_name[name] for name in parts)
    assert all(by_name[name] > 0 for name in parts) and by_name["labels"] == 0
    assert costs["mmssr"].selection_gpu_hours is None, "no GPU is named"
    assert costs["mmssr"].selection_money == 0


def test_a_control_that_is_like_an_arm_costs_what_drawing_it_takes(real):
    costs, _ = costs_of(real, "controls=on", "controls.compute=off")
    assert costs["mmssr"].selection_flops > 0
    for kind in ("matched", "tokens"):
        assert costs[f"mmssr.{kind}"].selection_flops == 0
        assert costs[f"mmssr.{kind}"].training_flops == costs["mmssr"].training_flops
    _, plan = planned("controls=on")
    about = plan.nodes[-1].config["costs"]["runs"]
    stages = plan.nodes[-1].inputs["costed"]
    own = [run for run in about if run["arm"] == "mmssr.matched"]
    assert [[stages[at].name for at in run["selection"]] for run in own] == [
        ["select[mmssr.matched,0]"],
        ["select[mmssr.matched,1]"],
    ]


def test_hours_and_money_follow_from_the_named_gpu(real):
    arguments = ("resources.gpu=h100", "resources.mfu=0.5", "resources.usd_per_gpu_hour=3")
    costs, notes = costs_of(real, *arguments)
    mmssr = costs["mmssr"]
    assert mmssr.selection_gpu_hours == pytest.approx(mmssr.selection_flops / (989e12 * 0.5 * 3600))
    assert mmssr.selection_money == pytest.approx(3 * mmssr.selection_gpu_hours)
    assert any("of h100 at 0.5 MFU" in note for note in notes)


def test_the_gpu_of_a_cost_changes_the_comparison_and_nothing_else(project):
    _, plain = planned()
    _, priced = planned("resources.gpu=h100", "resources.usd_per_gpu_hour=2")
    changed = {a.kind for a, b in zip(plain.nodes, priced.nodes, strict=True) if a.hash != b.hash}
    assert changed == {"compare"}


def test_a_signal_of_ones_own_is_not_counted_and_said(real, monkeypatch):
    code = "NEEDS = ('mine',)\ndef score(pool, rows): ...\ndef select(columns, budget, seed): ...\n"
    (real / "own_scores.py").write_text(code)
    monkeypatch.syspath_prepend(str(real))
    own = ("signals.mine.producer=own_scores:score", "arms.top={selector: 'own_scores:select', budget: 30%}")
    costs, notes = costs_of(real, *own)
    assert costs["top"].selection_flops is None
    assert any("signal[mine]" in note and "code of your own" in note for note in notes)


def test_every_producer_of_a_signal_has_a_rule():
    assert {signal.producer for signal in catalogue.SIGNALS} <= SIGNALS.keys()
    for producer in SIGNALS:
        module, _, name = producer.partition(":")
        assert hasattr(__import__(module, fromlist=[name]), name), producer


def one_signal(arguments, *, images=1, count=8):
    """FLOPs of the answer losses of `count` samples by the mini base, their lengths, and its shape."""
    lengths = Lengths.assumed(count, 30, images, 17)
    config = {"producer": "curation.signals.losses:score_losses", "arguments": arguments}
    step = Step("signal", "signal[x]", "s", config, {"pool": "p", "model_dir": "m"})
    rule = StageFlops({"s": step}, {"m": str(MINI)}, lambda pool, shape: lengths)
    return rule.of(step), lengths, Shape.of_checkpoint(MINI)


def test_a_full_loss_is_one_pass_and_ablated_ones_are_shorter():
    full, lengths, shape = one_signal({"terms": ["full"]})
    assert full == forward(shape, lengths, lengths.labels)
    three, *_ = one_signal({"terms": ["noimg", "noq", "a"]})
    assert full < three < 3 * full


def test_a_text_only_sample_has_each_different_loss_once():
    both, *_ = one_signal({"terms": ["full", "noimg"]}, images=0)
    full, *_ = one_signal({"terms": ["full"]}, images=0)
    assert both == full, "without an image the full loss is that without one"


def test_a_teachers_kept_answers_count_at_their_price():
    cost = {"usd": 1.5, "kept_input_tokens": 2_000_000, "kept_output_tokens": 1_000_000}
    server = {"input_price": 2.0, "output_price": 8.0, "mode": "batch", "batch": {"price": 0.5}}
    step = Step("labels_api", "labels_api", "h", {"server": server}, {}, summary={"cost": cost})
    assert charged(step) == pytest.approx(1.5 + 0.5 * (2 * 2 + 1 * 8))
    assert charged(replace(step, summary={"n": 3})) == 0
    judged = replace(step, config={"server": {"input_price": 0.0}}, summary={"usd": 0.25})
    assert charged(judged) == 0.25


def test_what_a_priced_judge_will_charge_is_not_known_before(project):
    trainings = TrainingCosts(planned()[0], project)
    judged = Node("signal", "signal[quality]", {"server": {"input_price": 2.5, "output_price": 0.0}}, {}, "h")
    assert trainings.usd(judged) is None
    free = {"server": {"input_price": 0.0, "output_price": 0.0}}
    assert trainings.usd(replace(judged, config=free)) == 0 == trainings.usd(replace(judged, config={}))


def test_hours_on_a_gpu_are_measured():
    about = {"runs": [], "gpu": "h100", "mfu": None, "usd_per_gpu_hour": None, "model_paths": {}}
    costs = Costs(about, [], lambda pool, shape: pytest.fail("no lengths are needed"))
    step = Step("signal", "s", "h", {}, {}, seconds=1800.0, device="4 x NVIDIA H100")
    assert costs.hours(step, 1e30) == 0.5
    train = {"train": {"processes": 4, "batch_size": 16}}
    assert used_gpus(replace(step, kind="fit_seed", config=train)) == 4
    assert costs.hours(replace(step, device="cpu"), 989e12 * 0.4 * 3600) == pytest.approx(1.0)
    assert total([1.0, None]) is None and total([]) == 0.0


# -------------------------------------------------------------------------------- budgets in compute


BUDGET = "arms.mmssr.budget={}"


@pytest.mark.parametrize(
    ("written", "canonical"),
    [("flops:1e18", "flops:1e+18"), ("FLOPS:10e17", "flops:1e+18"), ("gpuh:10.50", "gpuh:10.5")],
)
def test_equal_budgets_have_equal_text(written, canonical, project):
    loaded, _ = planned(BUDGET.format(written), "resources.gpu=h100", "arms.mmssr.seeds=1", "base.path=base")
    assert loaded.recipe.arms["mmssr"].budget == canonical


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["arms.random.budget=gpuh:1"], "gpuh:1 needs `resources.gpu`"),
        (["arms.random.budget=flops:1e15", "train.max_steps=5"], "which train.max_steps fixes"),
        (["arms.random.budget=as:mmsr"], "`mmsr` is not an arm"),
        (
            ["arms.random.budget=as:full", "arms.full.selector=random", "arms.full.budget=as:mmssr"],
            "has no budget",
        ),
        (["arms.random.budget=flops:0"], "is not allowed"),
        (["arms.random.budget=flops:1e30"], "is not allowed"),
    ],
)
def test_a_budget_that_cannot_be_kept_is_refused_by_its_key(overrides, problem, project, capsys):
    assert main(["demo.yaml", OFF, *overrides, "--dry-run"], "dummy_stages") == 2
    error = capsys.readouterr().err
    assert "arms.random.budget" in error and problem in error


def test_a_selection_that_costs_more_than_its_budget_is_refused_before_anything_runs(real, capsys, executed):
    need, _ = costs_of(real)
    flops = need["mmssr"].selection_flops
    plenty = BUDGET.format(f"flops:{flops * 2:.6g}")
    assert main(["demo.yaml", OFF, plenty, "arms.mmssr.seeds=1", "--dry-run"], "dummy_stages") == 0
    arguments = [OFF, BUDGET.format(f"flops:{flops / 2:.6g}"), "arms.mmssr.seeds=1"]
    assert main(["demo.yaml", *arguments], "dummy_stages") == 2
    error = capsys.readouterr().err
    assert f"{flops:.3g} FLOPs of the {flops / 2:.3g} that are allowed" in error and not executed()
    assert "--until clean" in error, "the pool is not built: its lengths are assumed"
    assert main(["demo.yaml", *arguments, "--until", "clean"], "dummy_stages") == 0


def test_gpu_hours_are_flops_by_the_gpu_and_its_mfu(real):
    _, plan = planned("arms.random.budget=gpuh:2", "resources.gpu=h100", "resources.mfu=0.25")
    select = next(node for node in plan.nodes if node.name == "select[random,0]")
    assert float(select.config["budget"].removeprefix("flops:")) == pytest.approx(2 * 3600 * 989e12 * 0.25)


def test_a_dry_run_expects_the_samples_that_a_budget_buys(real):
    free, _ = costs_of(real)
    allowed = free["full"].training_flops / 2
    costs, _ = costs_of(real, f"arms.random.budget=flops:{allowed:.9g}")
    assert costs["random"].training_flops == pytest.approx(allowed, rel=0.02)
    matched, _ = costs_of(real, "arms.again={selector: random, budget: 'as:mmssr'}")
    both = matched["mmssr"].selection_flops + matched["mmssr"].training_flops
    expected = min(both, free["full"].training_flops)
    assert matched["again"].training_flops == pytest.approx(expected, rel=0.02)
    assert matched["again"].selection_flops == 0, "it pays in training for what the other paid to select"


def test_where_models_lie_changes_no_hash(real):
    _, here = planned("arms.random.budget=flops:1e15")
    shutil.copytree(real / "base", real / "moved")
    _, there = planned("arms.random.budget=flops:1e15", "base.path=moved")
    # The comparison stamps the override of `base.path`.
    assert [node.hash for node in here.nodes[:-1]] == [node.hash for node in there.nodes[:-1]]


def test_a_dry_run_prints_the_costs_by_arm(real, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["demo.yaml", OFF, "resources.gpu=h100", "--dry-run"], "dummy_stages") == 0
    out = capsys.readouterr().out
    assert "costs by arm" in out and "selection s" in out and "h100 hours" in out
    row = next(line for line in out.splitlines() if line.startswith("│ random "))
    assert row.split("│")[3].strip() == "0"


def test_no_name_of_an_arm_is_cut_in_a_narrow_console(real, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["demo.yaml", "controls=on", "--dry-run"], "dummy_stages") == 0
    table = capsys.readouterr().out.partition("costs by arm")[2]
    assert all(f"│ {name} " in table for name in ("mmssr.matched", "mmssr.compute", "balanced_30"))


def test_partial_needs_no_stage_that_only_costs_are_counted_of(project):
    """The stages of a later repetition's further round are planned as of the first."""
    from recipes.engine import finished_repetitions

    two = "arms.two={selector: mllm_selector, budget: 30%, seeds: 2, rounds: 2}"
    assert main(["demo.yaml", OFF, two], "dummy_stages") == 0
    _, plan = planned(two)
    assert finished_repetitions(plan, project) == 2
    compare = plan.nodes[-1]
    assert "fit_seed[two,1,round 1]" in {node.name for node in compare.inputs["costed"]}
    for node in plan.nodes:
        if node is compare or node.repetition == 1 or "two,1" in node.name:
            shutil.rmtree(store_path(project, node.kind, node.hash))
    assert finished_repetitions(plan, project) == 1
