"""From a recipe to its graph of stages: which config section and which inputs go into which stage.

`compare_chain` follows the order of the data. Nothing that cannot change a result (name of the arm,
resources, tracking, root) is in a config, except in the last stage, which reports names.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from recipes.code import Stages
from recipes.external import Fingerprints
from recipes.graph import Node, Plan, dump, samples_seen, stage_name
from recipes.load import Loaded
from recipes.named_files import NamedSuite, deepspeed_input, work_of_bench
from recipes.plan_evaluation import EvaluationPlan
from recipes.plan_pool import PoolChain
from recipes.plan_signals import PoolPlan
from recipes.plan_validation import ValidationPlan
from recipes.schema import Arm, required


@dataclass(frozen=True)
class Run:
    """One repetition of an arm on one pool: its stages, and how the report describes it."""

    about: dict[str, Any]
    select: Node
    train: Node
    evaluate: Node


@dataclass(frozen=True)
class Trained:
    """What the trainings of all arms share: their config (all but the seed) and inputs."""

    config: dict[str, Any]
    inputs: dict[str, Any]


def make_plan(
    loaded: Loaded,
    stages: Stages | None = None,
    prints: Fingerprints | None = None,
    repetitions: int | None = None,
) -> Plan:
    """The stages of a recipe; with `repetitions`, only those of its first repetitions (see `compare_chain`).

    Reads the source of the stages and the content of external inputs, and writes nothing. Raises RecipeError.
    """
    plan, prints = Plan(stages or Stages()), prints or Fingerprints()
    if loaded.recipe.goal == "base":
        plan.add("pretrain", required(loaded.recipe.pretrain), {})
    else:
        compare_chain(plan, loaded, prints, repetitions)
    return plan


def compare_chain(plan: Plan, loaded: Loaded, prints: Fingerprints, repetitions: int | None = None) -> None:
    """bench; source, pool, clean, fits, signals, tokens for each pool; select, train, evaluate of each run;
    compare.

    Breadth first: the first run of every arm on every pool, then the second, and so on, so that an
    interrupted study has complete repetitions to compare. `repetitions` limits the plan to the first ones.
    """
    recipe = loaded.recipe
    bench = (
        plan.add("bench", dump(recipe.bench), {}, work=work_of_bench(recipe.bench)) if recipe.bench else None
    )
    seeds = recipe.drawn_pools()
    named = NamedSuite.of_evaluation(loaded)
    evaluation = EvaluationPlan(plan, loaded, prints, bench, recipe.bench, named)
    validation = ValidationPlan(plan, loaded, prints, evaluation)
    given = PoolChain(plan, loaded, prints, bench, validation, evaluation)
    pools = [given.add(seed, tagged=len(seeds) > 1) for seed in seeds]
    for pool in pools:
        for signal in dict.fromkeys(signal for arm in recipe.arms.values() for signal in arm.learned()):
            pool.signal(signal)
    spec = required(recipe.train)
    trained = Trained(dump(spec), {"base": given.base, **deepspeed_input(spec, loaded, prints)})
    planned = [
        (number, pool, name, *seeds_of_run)
        for number in range(recipe.repetitions())
        for pool in pools
        for name, arm in recipe.arms.items()
        for seeds_of_run in arm.runs()[number : number + 1]
    ]
    runs = [_run(*one, trained, evaluation) for one in planned if repetitions is None or one[0] < repetitions]
    plan.notes.append(evaluation.cost(len({run.evaluate.hash for run in runs})))
    arm_order = {name: at for at, name in enumerate(recipe.arms)}
    pool_order = {seed: at for at, seed in enumerate(seeds)}
    # The sort is stable, so the runs of an arm on a pool stay in the order of their seeds.
    runs.sort(key=lambda run: (arm_order[run.about["arm"]], pool_order[run.about["pool_seed"]]))
    shared = {**evaluation.shared, "held_out": validation.checks or None}
    _compare(plan, loaded, pools, runs, shared, planned_runs=len(planned))


def _compare(
    plan: Plan,
    loaded: Loaded,
    pools: list[PoolPlan],
    runs: list[Run],
    evaluated: dict[str, Any],
    *,
    planned_runs: int,
) -> None:
    """The last stage: it reads all runs, and what was computed on each pool."""
    recipe, by_pool = loaded.recipe, [pool.inputs() for pool in pools]
    config = {
        "name": recipe.name,
        "description": recipe.description,
        "scale": recipe.scale,
        "protocol": loaded.protocol,
        "modified": list(loaded.modified),
        "baseline": recipe.baseline,
        "reference": recipe.reference,
        "suite": recipe.evaluation.suite,
        "decontaminate": pools[0].decontaminate,
        "planned_runs": planned_runs,
        "pool_seeds": [pool.seed for pool in pools],
        "runs": [run.about for run in runs],
    }
    inputs = {
        **evaluated,
        **{key: [inputs[key] for inputs in by_pool] for key in by_pool[0]},
        "selects": [run.select for run in runs],
        "trains": [run.train for run in runs],
        "answers": [run.evaluate.inputs["answers"] for run in runs],
        "judgements": [
            run.evaluate.inputs["judgements"] for run in runs if "judgements" in run.evaluate.inputs
        ]
        or None,
        "evaluates": [run.evaluate for run in runs],
        "probes": [node for pool in pools for node in pool.probes] or None,
    }
    plan.add("compare", config, inputs)


def _run(
    number: int,
    pool: PoolPlan,
    arm_name: str,
    seed: int,
    train_seed: int,
    trained: Trained,
    evaluation: EvaluationPlan,
) -> Run:
    """select, train, answers and scores of one repetition."""
    recipe, plan = pool.loaded.recipe, pool.plan
    arm, spec = recipe.arms[arm_name], required(recipe.train)
    select = _select(pool, arm_name, seed, number)
    names: tuple[str | int, ...] = (arm_name, *pool.tag, *dict.fromkeys((seed, train_seed)))
    train = plan.add(
        "train",
        {**trained.config, "seed": train_seed},
        {"pool": pool.pool, "tokens": pool.own_tokens, "subset": select, **trained.inputs},
        name=stage_name("train", *names),
        work=samples_seen(spec, _expected_rows(arm, pool.size)),
        repetition=number,
    )
    shuffled = {"all": True, "first": number == 0, "none": False}[recipe.evaluation.shuffled]
    evaluate = evaluation.add(train, *names, shuffled=shuffled, limit=recipe.limit, repetition=number)
    seeds = {"pool_seed": pool.seed, "selection_seed": seed, "train_seed": train_seed}
    about = {"arm": arm_name, **dump(arm, "selector", "budget", "params", "signals")}
    return Run({**about, "targeted": _targeted(arm.selector), **seeds}, select, train, evaluate)


def _select(pool: PoolPlan, arm_name: str, seed: int, repetition: int) -> Node:
    """The subset of an arm; each further round reads signals of a seed model trained on the round before."""
    arm = pool.loaded.recipe.arms[arm_name]
    columns = dict(_columns(pool, arm, seed, repetition))
    address = _address(arm.selector)
    config = {
        "selector": arm.selector,
        "function": address,
        "budget": arm.budget,
        "seed": seed,
        "params": arm.params,
    }
    for turn in range(1, arm.rounds + 1):
        parts: tuple[str | int, ...] = (arm_name, *pool.tag, seed)
        parts += (f"round {turn}",) if turn < arm.rounds else ()
        select = pool.plan.add(
            "select",
            config,
            {"pool": pool.pool, **columns},
            name=stage_name("select", *parts),
            modules=(address.partition(":")[0],),
            repetition=repetition,
        )
        if turn < arm.rounds:
            later = (arm_name, seed, f"round {turn}")
            model = pool.seed_model(select, *later)
            columns |= {f"signal_{name}": pool.losses(name, model, *later) for name in arm.rescored()}
    return select


def _columns(pool: PoolPlan, arm: Arm, seed: int, repetition: int) -> Iterator[tuple[str, Node]]:
    """What an arm's selector reads besides the pool; an oracle's signals come from one stage."""
    needs = arm.needs()
    yield from ((f"signal_{signal}", pool.signal(signal)) for signal in arm.learned(needs))
    if "reference" in needs:
        yield "reference", _select(pool, required(arm.reference), seed, repetition)
    if "seed_rows" in needs:
        yield "seed_rows", pool.fit("seed_model")
    if arm.signals != "learned":
        yield "signal_oracle", pool.oracle(arm.signals == "oracle_knows_wrong")


@cache
def _address(selector: str) -> str:
    from curation.selectors.registry import SELECTORS

    return SELECTORS.get(selector, selector)


@cache
def _targeted(selector: str) -> bool:
    from curation.selectors.contract import Selector
    from curation.selectors.registry import get_selector

    return Selector.of(get_selector(selector)).targeted


def _expected_rows(arm: Arm, size: int) -> float:
    """Samples of an arm, for time estimates; a budget in tokens is estimated as the whole pool."""
    if isinstance(arm.budget, int):
        return arm.budget
    return size if arm.budget.startswith("tokens:") else float(arm.budget[:-1]) / 100 * size
