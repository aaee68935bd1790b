"""From a recipe to its graph of stages: which config section and which inputs go into which stage.

`compare_chain` follows the order of the data. Nothing that cannot change a result (name of the arm,
resources, tracking, root) is in a config, except in the last stage, which reports names.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from recipes.code import Stages
from recipes.controls import NO_SELECTOR, ZERO, Control, Controlled, Settled, decided, with_controls
from recipes.external import External, Fingerprints
from recipes.graph import Node, Plan, dump, samples_seen, stage_name
from recipes.load import Loaded
from recipes.named_files import NamedSuite, deepspeed_input, work_of_bench
from recipes.plan_budgets import SPENDING, budget_of, costed, refuse_unaffordable
from recipes.plan_evaluation import EvaluationPlan
from recipes.plan_pool import PoolChain
from recipes.plan_signals import PoolPlan
from recipes.plan_validation import ValidationPlan
from recipes.schema import Arm, Recipe, required
from recipes.stages.control_notes import in_words


@dataclass(frozen=True)
class Run:
    """One repetition of an arm on one pool: its stages, and how the report describes it.

    The base model itself, which is evaluated without SFT, has neither selection nor training.
    """

    about: dict[str, Any]
    select: Node | None
    train: Node | None
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
    settled: Settled | None = None,
) -> Plan:
    """The stages of a recipe; with `repetitions`, only those of its first repetitions (see `compare_chain`).

    Which controls are needed is read from their selections in the store, or is what `settled` says (the
    `settled` of an earlier plan). While selections are missing the plan has all controls, and `Plan.deciding`
    and `Plan.again` say what to run before planning again.

    Reads the source of the stages and the content of external inputs, and writes nothing. Raises RecipeError.
    """
    prints, stages = prints or Fingerprints(), stages or Stages()
    if loaded.recipe.goal == "base":
        plan = Plan(stages)
        plan.add("pretrain", required(loaded.recipe.pretrain), {})
        return plan
    controlled = with_controls(loaded.recipe)
    if settled is None:
        plan = Plan(stages)
        runs = compare_chain(plan, loaded, controlled, prints, repetitions)
        selects = _deciding(runs, controlled)
        settled = decided(controlled, selects, Path(loaded.recipe.root).expanduser().resolve())
        if settled is None:
            plan.deciding = list(dict.fromkeys(node for nodes in selects.values() for node in nodes))
            plan.again = partial(make_plan, loaded, stages, prints, repetitions)
            plan.notes.append(
                f"controls that are trained only if their selections show that they are needed, and counted "
                f"here: {', '.join(selects)}"
            )
            return plan
        if not settled:
            return plan
    plan = Plan(stages, settled=settled, notes=list(in_words(settled)))
    unneeded = [name for name, decision in settled.items() if not decision["needed"]]
    compare_chain(plan, loaded, controlled.without(unneeded), prints, repetitions)
    return plan


def _deciding(runs: Sequence[Run], controlled: Controlled) -> dict[str, list[Node]]:
    """The selections, of the first repetition, that tell whether a control is needed."""
    selects: dict[str, list[Node]] = {name: [] for name in controlled.open()}
    for run in runs:
        if run.about["arm"] in selects and run.select and run.select.repetition == 0:
            selects[run.about["arm"]].append(run.select)
    return selects


def compare_chain(
    plan: Plan,
    loaded: Loaded,
    controlled: Controlled,
    prints: Fingerprints,
    repetitions: int | None = None,
) -> list[Run]:
    """bench; source, pool, clean, fits, signals, tokens for each pool; select, train, evaluate of each run;
    compare. Returns the runs.

    Breadth first: the first run of every arm on every pool, then the second, and so on, so that an
    interrupted study has complete repetitions to compare. `repetitions` limits the plan to the first ones.
    """
    recipe = controlled.recipe
    loaded = replace(loaded, recipe=recipe)
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
    planned = list(_breadth_first(recipe, pools))
    chosen = [one for one in planned if repetitions is None or one[0] < repetitions]
    runs = [_run(*one, trained, evaluation, controlled.roles) for one in chosen]
    zero = [_zero(pool, given.base, evaluation) for pool in pools] if controlled.zero else []
    plan.notes.append(evaluation.cost(len({run.evaluate.hash for run in (*runs, *zero)})))
    runs += zero
    arm_order = {name: at for at, name in enumerate((*recipe.arms, ZERO))}
    pool_order = {seed: at for at, seed in enumerate(seeds)}
    # The sort is stable, so the runs of an arm on a pool stay in the order of their seeds.
    runs.sort(key=lambda run: (arm_order[run.about["arm"]], pool_order[run.about["pool_seed"]]))
    shared = {**evaluation.shared, "held_out": validation.checks or None}
    refuse_unaffordable(plan, runs, loaded)
    _compare(plan, loaded, pools, runs, shared, planned_runs=len(planned) + len(zero))
    return runs


def _breadth_first(
    recipe: Recipe, pools: Sequence[PoolPlan]
) -> Iterator[tuple[int, PoolPlan, str, int, int]]:
    """(number of the repetition, pool, arm, selection seed, training seed) of every run, in their order."""
    for number in range(recipe.repetitions()):
        for pool in pools:
            for name, arm in recipe.arms.items():
                for selection, training in arm.runs()[number : number + 1]:
                    yield number, pool, name, selection, training


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
    costs, stages = costed(runs, pools, loaded, pools[0].base)
    config = {
        "name": recipe.name,
        "description": recipe.description,
        "scale": recipe.scale,
        "protocol": loaded.protocol,
        "modified": list(loaded.modified),
        "baseline": recipe.baseline,
        "reference": recipe.reference,
        "margin": recipe.margin,
        "suite": recipe.evaluation.suite,
        "decontaminate": pools[0].decontaminate,
        "planned_runs": planned_runs,
        "pool_seeds": [pool.seed for pool in pools],
        "runs": [run.about for run in runs],
        "controls": plan.settled,
        "costs": costs,
    }
    inputs = {
        **evaluated,
        **{key: [inputs[key] for inputs in by_pool] for key in by_pool[0]},
        "selects": [run.select for run in runs if run.select],
        "trains": [run.train for run in runs if run.train],
        "answers": [run.evaluate.inputs["answers"] for run in runs],
        "judgements": [
            run.evaluate.inputs["judgements"] for run in runs if "judgements" in run.evaluate.inputs
        ]
        or None,
        "evaluates": [run.evaluate for run in runs],
        "probes": [node for pool in pools for node in pool.probes] or None,
        "costed": stages,
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
    roles: Mapping[str, Control],
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
    about: dict[str, Any] = {
        "arm": arm_name,
        **dump(arm, "selector", "budget", "params", "signals"),
        "targeted": _targeted(arm.selector),
        **_role(roles.get(arm_name)),
        **_seeds(pool, seed, train_seed),
    }
    return Run(about, select, train, evaluate)


def _zero(pool: PoolPlan, base: External, evaluation: EvaluationPlan) -> Run:
    """The base model as it is. It is the same on every pool, and evaluated once."""
    recipe = pool.loaded.recipe
    shuffled = recipe.evaluation.shuffled != "none"
    about: dict[str, Any] = {
        "arm": ZERO,
        "selector": NO_SELECTOR,
        "budget": 0,
        "params": {},
        "signals": "learned",
        "targeted": False,
        **_role(Control(ZERO)),
        **_seeds(pool, 0, 0),
    }
    return Run(about, None, None, evaluation.add(base, ZERO, shuffled=shuffled, limit=recipe.limit))


def _role(control: Control | None) -> dict[str, str | None]:
    """What of an arm's role as a control the comparison is told."""
    kind, of = (control.kind, control.of) if control else (None, None)
    return {"control": kind, "control_of": of}


def _seeds(pool: PoolPlan, selection: int, training: int) -> dict[str, int | None]:
    return {"pool_seed": pool.seed, "selection_seed": selection, "train_seed": training}


def _select(pool: PoolPlan, arm_name: str, seed: int, repetition: int) -> Node:
    """The subset of an arm; each further round reads signals of a seed model trained on the round before."""
    arm = pool.loaded.recipe.arms[arm_name]
    columns = dict(_columns(pool, arm, seed, repetition))
    address = _address(arm.selector)
    budget, spent = budget_of(pool, arm, columns, lambda name: _select(pool, name, seed, repetition))
    config = {
        "selector": arm.selector,
        "function": address,
        "seed": seed,
        "params": arm.params,
        **budget,
    }
    for turn in range(1, arm.rounds + 1):
        parts: tuple[str | int, ...] = (arm_name, *pool.tag, seed)
        parts += (f"round {turn}",) if turn < arm.rounds else ()
        select = pool.plan.add(
            "select",
            config,
            {"pool": pool.pool, **columns, **spent},
            name=stage_name("select", *parts),
            modules=(address.partition(":")[0], *((SPENDING,) if spent else ())),
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
    """Samples of an arm, for time estimates; a budget in tokens or compute is estimated as the whole pool."""
    if isinstance(arm.budget, int):
        return arm.budget
    return size if not arm.budget.endswith("%") else float(arm.budget[:-1]) / 100 * size
