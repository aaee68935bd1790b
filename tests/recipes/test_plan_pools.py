"""Recipes with several pools, with baselines by budget and with oracles: the graph and the order of work."""

import pytest
from plans import STAGES, by_name, plan

from recipes.errors import RecipeError
from recipes.executors import Schedule
from recipes.load import load
from recipes.plan import make_plan

THREE = "pool_seeds=3"


def above(node):
    """A stage and all stages that it depends on."""
    return {node} | {upper for parent in node.parents() for upper in above(parent)}


def test_one_pool_seed_is_the_recipe_without_pool_seeds(project):
    plain, one = by_name(), by_name("pool_seeds=[0]")
    assert {name: node.hash for name, node in plain.items()} == {
        name: node.hash for name, node in one.items()
    }
    other = by_name("pool_seeds=[4]")
    assert set(other) == set(plain)
    assert other["pool"].hash == by_name("pool.seed=4")["pool"].hash != plain["pool"].hash


def test_everything_but_the_benchmarks_is_repeated_on_each_pool(project):
    plain, nodes = by_name(), by_name(THREE)
    assert len(nodes) == 3 * (len(plain) - 2) + 2  # bench and compare are shared
    assert [nodes[f"source[p{seed}]"].config["seed"] for seed in range(3)] == [0, 1, 2]
    assert nodes["source[p0]"].hash == plain["source"].hash  # so a run on pool 0 alone stays cached
    assert nodes["evaluate[mmssr,p0,1]"].hash == plain["evaluate[mmssr,1]"].hash
    for seed in range(3):
        assert {n.name for n in above(nodes[f"evaluate[mmssr,p{seed},1]"])} == {
            "bench",
            f"source[p{seed}]",
            f"pool[p{seed}]",
            f"clean[p{seed}]",
            f"tokens[p{seed}]",
            f"labels[p{seed}]",
            f"fit_rater[scorer,p{seed}]",
            f"fit_rater[styler,p{seed}]",
            f"signal[capability,p{seed}]",
            f"signal[style,p{seed}]",
            f"select[mmssr,p{seed},1]",
            f"train[mmssr,p{seed},1]",
            f"answer[mmssr,p{seed},1]",
            f"evaluate[mmssr,p{seed},1]",
        }
    assert nodes["labels[p0]"].config == nodes["labels[p1]"].config  # the teacher's seed stays


def test_compare_reads_pool_by_pool(project):
    compare = by_name(THREE)["compare"]
    assert compare.config["pool_seeds"] == [0, 1, 2] and compare.config["planned_runs"] == 15
    for key in ("pool", "truth", "labels", "scorer", "styler", "signal_capability", "signal_style"):
        assert [node.name.rpartition("p")[2] for node in compare.inputs[key]] == ["0]", "1]", "2]"]
    runs = [(run["arm"], run["pool_seed"], run["train_seed"]) for run in compare.config["runs"]]
    assert runs == sorted(runs, key=lambda run: (["mmssr", "random", "full"].index(run[0]), *run[1:]))
    assert len(runs) == len(set(runs)) == 15
    stages = [compare.inputs[key] for key in ("selects", "trains", "evaluates")]
    for (arm, pool, seed), select, train, evaluate in zip(runs, *stages, strict=True):
        seeds = f"0,{seed}" if arm == "full" and seed else f"{seed}"
        assert select.name == f"select[{arm},p{pool},{0 if arm == 'full' else seed}]"
        assert train.name == f"train[{arm},p{pool},{seeds}]"
        assert evaluate.name == f"evaluate[{arm},p{pool},{seeds}]"


def test_pool_seeds_do_not_modify_the_protocol(project):
    assert load("demo.yaml", [THREE]).protocol == "standard"
    assert load("demo.yaml", ["pool_seeds=[5, 5, 7]"]).recipe.drawn_pools() == [5, 7]


def test_pool_seeds_require_a_mini_pool(project):
    (project / "own.yaml").write_text(
        "pool: {kind: llava, source: data.json}\nbase: {path: base}\ntrain: {lr: 1}\nname: l\n"
        "arms: {a: {selector: random, budget: 5}}\npool_seeds: 2\n"
    )
    (project / "data.json").write_text("[]")
    with pytest.raises(RecipeError, match=r"own\.yaml:6: pool_seeds: only a mini pool can be drawn again"):
        load("own.yaml")


def test_a_scale_that_draws_pools_repeats_arms_on_a_pool_that_is_given(project):
    (project / "scales" / "tiny.yaml").open("a").write("pool_seeds: 4\nseeds: 1\nrandom_seeds: 3\n")
    (project / "data.json").write_text("[]")
    arms = "arms: {a: {selector: length, budget: 5}, b: {selector: random, budget: 5}}\n"
    (project / "own.yaml").write_text(
        f"name: x\nscale: tiny\npool: {{kind: file, source: data.json}}\n{arms}"
    )
    recipe = load("own.yaml").recipe
    assert recipe.drawn_pools() == [None] and {arm.seeds for arm in recipe.arms.values()} == {3}
    with pytest.raises(RecipeError, match="pool_seeds: only a mini pool can be drawn again"):
        load("own.yaml", ["pool_seeds=2"])
    (project / "drawn.yaml").write_text(f"name: x\nscale: tiny\n{arms}")
    recipe = load("drawn.yaml").recipe
    assert len(recipe.drawn_pools()) == 4
    assert [arm.seeds for arm in recipe.arms.values()] == [1, 3]


# -------------------------------------------------------------------------- order


def test_breadth_first_over_repetitions(project):
    nodes = plan(THREE, "arms.random.seeds=3").nodes
    assert [n.name for n in nodes if n.kind == "train"] == [
        *(f"train[{arm},p{p},0]" for p in range(3) for arm in ("mmssr", "random", "full")),
        *(f"train[{arm},p{p},1]" for p in range(3) for arm in ("mmssr", "random")),
        *(f"train[random,p{p},2]" for p in range(3)),
    ]
    assert {n.repetition for n in nodes if n.kind not in ("select", "train", "answer", "evaluate")} == {0}
    assert [n.repetition for n in nodes if n.kind == "evaluate"] == [0] * 9 + [1] * 6 + [2] * 3


def test_the_schedule_prefers_early_repetitions_then_long_paths(project):
    nodes = [n for n in plan(THREE).nodes if n.kind in ("train", "evaluate")]
    parents = {n.name: {p.name for p in n.parents() if p.kind == "train"} for n in nodes}
    schedule = Schedule(
        dict.fromkeys((n.name for n in nodes), None),
        parents,
        {n.name: n.work for n in nodes},
        {n.name: n.repetition for n in nodes},
    )
    schedule.tasks = {n.name: n for n in nodes}
    order = []
    while chosen := schedule.next():
        order.append(chosen)
        schedule.finished(chosen.name)
    assert len(order) == len(nodes)
    assert [n.repetition for n in order] == sorted(n.repetition for n in nodes)
    longest = {f"train[full,p{p},0]" for p in range(3)}
    assert {n.name for n in order[:3]} == longest


def test_a_plan_of_the_first_repetitions_only(project):
    whole, part = plan(THREE), plan(THREE, repetitions=1)
    assert {n.hash for n in part.nodes[:-1]} == {n.hash for n in whole.nodes[:-1] if n.repetition == 0}
    runs, compare = part.nodes[-1].config["runs"], part.nodes[-1]
    assert (len(runs), compare.config["planned_runs"]) == (9, 15)
    assert compare.hash != whole.nodes[-1].hash
    assert plan(THREE, repetitions=2).nodes[-1].hash == whole.nodes[-1].hash


# -------------------------------------------------------------------------- baselines by budget

BUDGETS = (
    "arms.random_10={selector: random, budget: 10%}",
    "arms.random_30={selector: random, budget: 30.0 %}",
)


def problem(*overrides):
    with pytest.raises(RecipeError) as caught:
        load("demo.yaml", overrides)
    return str(caught.value)


def test_a_baseline_for_each_budget(project):
    loaded = load("demo.yaml", [*BUDGETS, "baseline={10.0%: random_10, 30%: random_30, 100%: random_30}"])
    assert loaded.recipe.baseline == {"10%": "random_10", "30%": "random_30", "100%": "random_30"}
    assert make_plan(loaded, STAGES).nodes[-1].config["baseline"] == loaded.recipe.baseline
    counted = load("demo.yaml", ["arms.a={selector: random, budget: 50}", "baseline={50: a}"])
    assert counted.recipe.baseline == {"50": "a"}


@pytest.mark.parametrize(
    "baseline, message",
    [
        (
            "{10%: random_30}",
            "baseline.10%: `random_30` has budget 30%; a baseline must have the budget of its arms",
        ),
        ("{10%: randon_10}", "baseline.10%: `randon_10` is not an arm; did you mean `random_10`?"),
        ("{20%: random_30}", "baseline.20%: no arm has this budget; known are: 10%, 100%, 30%"),
        ("{much: random_30}", "budget 'much' is not allowed"),
    ],
)
def test_an_invalid_baseline_is_refused(project, baseline, message):
    assert message in problem(*BUDGETS, f"baseline={baseline}")


# -------------------------------------------------------------------------- oracles


def test_an_oracle_replaces_both_learned_signals(project):
    nodes = by_name(
        "arms.known.selector=mmssr",
        "arms.known.signals=oracle",
        "arms.known.budget=30%",
        "arms.known.seeds=2",
    )
    assert sorted(nodes["select[known,0]"].inputs) == ["pool", "signal_oracle"]
    assert nodes["signal[oracle]"].inputs == {"pool": nodes["clean"], "truth": nodes["source"]}
    assert (
        nodes["select[known,0]"].inputs["signal_oracle"] is nodes["select[known,1]"].inputs["signal_oracle"]
    )
    assert sorted(nodes["select[mmssr,0]"].inputs) == ["pool", "signal_capability", "signal_style"]


def test_an_oracle_alone_needs_no_fit(project):
    kinds = {node.family for node in by_name("arms.mmssr.signals=oracle_knows_wrong").values()}
    assert kinds == {
        "bench",
        "source",
        "pool",
        "clean",
        "leaks",
        "tokens",
        "signal[oracle]",
        "select",
        "train",
        "answer",
        "evaluate",
        "compare",
    }


def test_two_oracles_on_two_pools_are_four_stages(project):
    nodes = by_name(
        "pool_seeds=2",
        "arms.a={selector: mmssr, signals: oracle}",
        "arms.b={selector: mmssr, signals: oracle_knows_wrong}",
    )
    arguments = {name: node.config["arguments"] for name, node in nodes.items() if "oracle" in name}
    assert arguments == {
        "signal[oracle,p0]": {"knows_wrong": False},
        "signal[oracle,p1]": {"knows_wrong": False},
        "signal[oracle,knows_wrong,p0]": {"knows_wrong": True},
        "signal[oracle,knows_wrong,p1]": {"knows_wrong": True},
    }


def test_an_oracle_without_effect_is_refused(project):
    assert "selector `random` reads neither capability nor style" in problem("arms.random.signals=oracle")
    assert "'learned', 'oracle' or 'oracle_knows_wrong'" in problem("arms.mmssr.signals=orakel")


def test_only_the_mini_world_has_an_oracle(project):
    (project / "own.yaml").write_text(
        "pool: {kind: llava, source: data.json}\nbase: {path: base}\ntrain: {lr: 1}\nname: l\n"
        "arms: {a: {selector: mmssr, budget: 5, signals: oracle}}\n"
    )
    with pytest.raises(RecipeError, match=r"arms\.a\.signals: `oracle` reads the mini world's ground truth"):
        load("own.yaml")
