"""From a recipe to its graph of stages: which config section and which inputs go into which stage.

`compare_chain` reads top to bottom in the order of the data. Nothing that cannot change a result (name of the arm,
resources, tracking, root) is in a config, except in the last stage, which reports names.
"""

from collections.abc import Iterator
from typing import Any

from recipes import external
from recipes.code import Stages
from recipes.external import External, Fingerprints
from recipes.graph import Node, Plan, dump, samples_seen, stage_name
from recipes.load import Loaded
from recipes.plan_signals import World
from recipes.schema import Arm, Recipe


def make_plan(
    loaded: Loaded,
    stages: Stages | None = None,
    prints: Fingerprints | None = None,
    repetitions: int | None = None,
) -> Plan:
    """The stages of a recipe, or of its first so many repetitions (see `compare_chain`).

    Pure but for reading the stages' source and the external inputs' content.
    """
    plan, prints = Plan(stages or Stages()), prints or Fingerprints()
    if loaded.recipe.goal == "base":
        plan.add("pretrain", loaded.recipe.pretrain, {})
    else:
        compare_chain(plan, loaded, prints, repetitions)
    return plan


def compare_chain(plan: Plan, loaded: Loaded, prints: Fingerprints, repetitions: int | None = None) -> None:
    """bench; source, pool, fits and signals of each pool; select, train, evaluate for each arm and seed; compare.

    Breadth first: the first run of every arm on every pool, then the second, and so on, so that a study that is cut
    short has whole repetitions to compare. `repetitions` leaves out what comes after so many of them.
    """
    from curation.selectors import describe

    recipe = loaded.recipe
    base_at = (recipe.base.path, recipe.base.revision, loaded.locate("base", "path"), prints)
    base = external.model(*base_at, external.MODEL_FILES)
    tokenizer = external.model(*base_at, external.PROCESSOR_FILES)
    bench = recipe.bench and plan.add("bench", dump(recipe.bench), {}, work=recipe.bench.items * 14)
    seeds = recipe.drawn_pools()
    worlds = [
        _world(plan, loaded, prints, seed, (f"p{seed}",) if len(seeds) > 1 else (), bench, base, tokenizer)
        for seed in seeds
    ]
    for world in worlds:
        for signal in dict.fromkeys(signal for arm in recipe.arms.values() for signal in arm.learned()):
            world.signal(signal)

    runs: list[tuple[dict[str, Any], Node, Node, Node]] = []
    planned = [
        (number, world, name, *run)
        for number in range(recipe.repetitions())
        for world in worlds
        for name, arm in recipe.arms.items()
        for run in arm.runs()[number : number + 1]
    ]
    for number, world, arm_name, seed, train_seed in planned:
        if repetitions is not None and number >= repetitions:
            break
        arm = recipe.arms[arm_name]
        select = _select(world, arm_name, seed, number)
        names = (arm_name, *world.tag, *dict.fromkeys((seed, train_seed)))
        train = plan.add(
            "train",
            {**dump(recipe.train), "seed": train_seed},
            {"pool": world.pool, "subset": select, "base": base},
            name=stage_name("train", *names),
            work=samples_seen(recipe.train, _expected_rows(arm, world.size)),
            repetition=number,
        )
        items = min(recipe.bench.items, recipe.limit or recipe.bench.items) if recipe.bench else 1
        shuffled = recipe.evaluation.shuffled == "all" or (
            recipe.evaluation.shuffled == "first" and number == 0
        )
        evaluate = plan.add(
            "evaluate",
            {**dump(recipe.evaluation), "shuffled": shuffled, "limit": recipe.limit},
            {"model": train, "bench": bench},
            name=stage_name("evaluate", *names),
            work=items * 14 * (1 + shuffled),
            repetition=number,
        )
        about = {
            "arm": arm_name,
            "selector": arm.selector,
            "budget": arm.budget,
            "params": arm.params,
            "signals": arm.signals,
            "targeted": describe(arm.selector, arm.params).targeted,
            "pool_seed": world.seed,
            "selection_seed": seed,
            "train_seed": train_seed,
        }
        runs.append((about, select, train, evaluate))

    order = list(recipe.arms)
    runs.sort(
        key=lambda run: (order.index(run[0]["arm"]), seeds.index(run[0]["pool_seed"]))
    )  # stable: by seed inside
    layout, selects, trains, evaluates = (list(column) for column in zip(*runs, strict=True))
    by_pool = [world.inputs() for world in worlds]
    plan.add(
        "compare",
        {
            "name": recipe.name,
            "description": recipe.description,
            "scale": recipe.scale,
            "protocol": loaded.protocol,
            "modified": list(loaded.modified),
            "baseline": recipe.baseline,
            "reference": recipe.reference,
            "suite": recipe.evaluation.suite,
            "planned_runs": len(planned),
            "pool_seeds": seeds,
            "runs": layout,
        },
        {
            "bench": bench,
            **{key: [world[key] for world in by_pool] for key in by_pool[0]},
            "selects": selects,
            "trains": trains,
            "evaluates": evaluates,
            "probes": [node for world in worlds for node in world.probes] or None,
        },
    )


def _world(
    plan: Plan,
    loaded: Loaded,
    prints: Fingerprints,
    seed: int | None,
    tag: tuple[str, ...],
    bench: Node | None,
    base: External,
    tokenizer: External,
) -> World:
    """source and pool of one pool seed (None: the pool is given, not drawn)."""
    recipe, size = loaded.recipe, _pool_size(loaded.recipe)
    pool_config = {
        "kind": recipe.pool.kind,
        "max_bad_fraction": recipe.pool.max_bad_fraction,
        "limit": recipe.limit,
    }
    if recipe.pool.kind == "mini":
        drawn = {**dump(recipe.pool, "size", "defects"), "seed": seed}
        source = plan.add(
            "source", drawn, {"bench": bench}, name=stage_name("source", *tag), work=recipe.pool.size
        )
        inputs = {"source": source}
    else:
        source = external.data_file(recipe.pool.source, loaded.locate("pool", "source"), "pool", prints)
        images = external.images(
            recipe.pool.images, source.path, recipe.limit, loaded.locate("pool", "images"), prints
        )
        inputs = {"source": source, "images": images}
    pool = plan.add(
        "pool", pool_config, {**inputs, "tokenizer": tokenizer}, name=stage_name("pool", *tag), work=size
    )
    return World(plan, loaded, prints, seed, tag, pool, source, base, size)


def _select(world: World, arm_name: str, seed: int, repetition: int) -> Node:
    """The subset of an arm; in later rounds its necessity comes from a seed model that was tuned on the round before."""
    arm = world.loaded.recipe.arms[arm_name]
    columns = dict(_columns(world, arm, seed, repetition))
    config = {"selector": arm.selector, "budget": arm.budget, "seed": seed, "params": arm.params}
    for turn in range(1, arm.rounds + 1):
        parts = (arm_name, *world.tag, seed, *([f"round {turn}"] if turn < arm.rounds else []))
        select = world.plan.add(
            "select",
            config,
            {"pool": world.pool, **columns},
            name=stage_name("select", *parts),
            modules=[_selector_module(arm)],
            repetition=repetition,
        )
        if turn < arm.rounds:
            model = world.seed_model_on(select, arm_name, seed, f"round {turn}")
            columns |= {
                f"signal_{name}": world.losses(model, terms, "", name, arm_name, seed, f"round {turn}")
                for name, terms in (("necessity", ["full"]), ("necessity_ablated", ["noimg", "noq", "a"]))
                if f"signal_{name}" in columns
            }
    return select


def _columns(world: World, arm: Arm, seed: int, repetition: int) -> Iterator[tuple[str, Node]]:
    """What an arm's selector reads on one pool, beside the pool; the signals of an oracle come from one stage."""
    yield from ((f"signal_{signal}", world.signal(signal)) for signal in arm.learned())
    if "reference" in arm.needs():
        yield "reference", _select(world, arm.reference, seed, repetition)
    if "seed_rows" in arm.needs():
        yield "seed_rows", world.fit("seed_model")
    if arm.signals != "learned":
        knows_wrong = arm.signals == "oracle_knows_wrong"
        yield (
            "signal_oracle",
            world.add(
                "signal_oracle",
                {"knows_wrong": knows_wrong},
                {"pool": world.pool, "source": world.source},
                1,
                *(["knows_wrong"] if knows_wrong else []),
            ),
        )


def _selector_module(arm: Arm) -> str:
    from curation.selectors import SELECTORS

    return SELECTORS.get(arm.selector, arm.selector).partition(":")[0]


def _pool_size(recipe: Recipe) -> int:
    """Samples in the pool as far as they are known before it is read; a LLaVA file is taken for 1,000 or the limit."""
    size = recipe.pool.size if recipe.pool.kind == "mini" else 1_000
    return min(size, recipe.limit or size)


def _expected_rows(arm: Arm, size: int) -> float:
    """Samples of an arm for estimates; a budget in tokens is taken for the whole pool."""
    if isinstance(arm.budget, int):
        return arm.budget
    return size if arm.budget.startswith("tokens:") else float(arm.budget[:-1]) / 100 * size
