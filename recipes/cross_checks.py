"""Combinations of a recipe's values that are invalid although each value is valid on its own."""

from collections.abc import Iterator

from recipes.document import KeyPath
from recipes.errors import nearest
from recipes.schema import Bench, MiniPool, Recipe, required
from recipes.schema.base import in_compute


def cross_checks(recipe: Recipe) -> Iterator[tuple[KeyPath, str]]:
    """(key, problem) of each invalid combination of values that are valid on their own.

    The caller raises for the first one, so a check may rely on those before it.
    """
    if recipe.goal == "base":
        if recipe.pretrain is None:
            yield ("pretrain",), "missing; it holds the settings of the training for goal `base`"
        return
    for section in ("pool", "base", "train"):
        if getattr(recipe, section) is None:
            yield (section,), "missing; give it, or a `scale:` that supplies it"
    yield from _seed_checks(recipe)
    if not recipe.arms:
        yield ("arms",), "missing; an experiment compares at least one arm"
    yield from _role_checks(recipe)
    yield from _budget_checks(recipe)
    yield from _held_out_checks(recipe)
    yield from _pool_checks(recipe)


def _seed_checks(recipe: Recipe) -> Iterator[tuple[KeyPath, str]]:
    """Training seeds that are given where another key decides them."""
    if recipe.train and recipe.train.seed:
        yield ("train", "seed"), "every arm has its own seed; give `seeds` or `train_seeds` there"
    for name in ("seed_model", "scorer", "styler"):
        if (section := getattr(recipe, name)) and section.train and section.train.seed:
            yield (name, "train", "seed"), f"this training is seeded by {name}.seed; set that instead"
    if (warmup := recipe.gradient and recipe.gradient.warmup) and warmup.train.seed:
        key = ("gradient", "warmup", "train", "seed")
        yield key, "this training is seeded by gradient.warmup.seed; set that instead"


def _pool_checks(recipe: Recipe) -> Iterator[tuple[KeyPath, str]]:
    """Keys that do not fit the kind or the size of the pool."""
    pool, train = required(recipe.pool), required(recipe.train)
    if pool.over_length == "truncate" and train.max_length is not None and train.too_long != "truncate":
        yield (
            ("pool", "over_length"),
            f"truncate leaves long samples in the pool, which train.too_long: {train.too_long} does not cut",
        )
    if isinstance(pool, MiniPool):
        if recipe.bench is None:
            yield (
                ("bench",),
                "missing; the generator of a mini pool needs its benchmarks, from which it plants leaks",
            )
        size = min(pool.size, recipe.limit or pool.size)
        for name, arm in recipe.arms.items():
            if isinstance(arm.budget, int) and arm.budget > size:
                yield ("arms", name, "budget"), f"requested {arm.budget} samples, the pool has only {size}"
        return
    if recipe.pool_seeds is not None:
        yield ("pool_seeds",), "only a mini pool can be drawn again with another seed"
    for name, arm in recipe.arms.items():
        if arm.signals != "learned":
            problem = f"`{arm.signals}` reads the mini world's ground truth, which no other pool has"
            yield ("arms", name, "signals"), problem


def _budget_checks(recipe: Recipe) -> Iterator[tuple[KeyPath, str]]:
    """Budgets in compute that cannot be turned into samples."""
    for name, arm in recipe.arms.items():
        key, budget = ("arms", name, "budget"), str(arm.budget)
        if not in_compute(arm.budget):
            continue
        if budget.startswith("gpuh:") and recipe.resources.gpu is None:
            yield key, f"{budget} needs `resources.gpu`, by whose peak hours are turned into FLOPs"
        if required(recipe.train).max_steps:
            yield (
                key,
                f"{budget} decides how many samples are trained on, which train.max_steps fixes; give epochs",
            )
        if arm.rounds > 1:
            yield key, f"{budget} cannot be divided among `rounds: {arm.rounds}`; give a budget in samples"
        if not budget.startswith("as:"):
            continue
        other = budget.removeprefix("as:")
        if other not in recipe.arms:
            yield key, f"`{other}` is not an arm; {nearest(other, recipe.arms)}"
        elif str(recipe.arms[other].budget).startswith("as:"):
            yield key, f"arm `{other}` has no budget of its own, but {recipe.arms[other].budget}"


def _held_out_checks(recipe: Recipe) -> Iterator[tuple[KeyPath, str]]:
    """Nothing may be fitted or selected with the items that the arms are compared on."""
    for key, section in (
        (("probe", "bench"), recipe.probe and recipe.probe.bench),
        (("gradient", "validation"), recipe.gradient and recipe.gradient.validation),
    ):
        if isinstance(section, Bench) and recipe.bench and section.seed == recipe.bench.seed:
            yield (
                (*key, "seed"),
                f"seed {section.seed} draws the items that the arms are compared on; give another seed",
            )


def _role_checks(recipe: Recipe) -> Iterator[tuple[KeyPath, str]]:
    """What is wrong with `baseline`, `reference` and the arms' own references."""
    for name, arm in recipe.arms.items():
        key = ("arms", name, "reference")
        if arm.reference == name:
            yield key, "an arm cannot be its own reference"
        elif arm.reference is not None and arm.reference not in recipe.arms:
            yield key, f"`{arm.reference}` is not an arm; {nearest(arm.reference, recipe.arms)}"
    for name in recipe.controls.arms or ():
        if name not in recipe.arms:
            yield ("controls", "arms"), f"`{name}` is not an arm; {nearest(name, recipe.arms)}"
    by_budget = recipe.baseline if isinstance(recipe.baseline, dict) else {}
    roles: list[tuple[KeyPath, str | None]] = [(("reference",), recipe.reference)]
    roles += [(("baseline", budget), name) for budget, name in by_budget.items()]
    roles += [(("baseline",), recipe.baseline)] if isinstance(recipe.baseline, str) else []
    for role, arm_name in roles:
        if arm_name is not None and arm_name not in recipe.arms:
            yield role, f"`{arm_name}` is not an arm; {nearest(arm_name, recipe.arms)}"
    budgets = {str(arm.budget) for arm in recipe.arms.values()}
    for budget, name in by_budget.items():
        own = str(recipe.arms[name].budget)
        if budget not in budgets:
            yield ("baseline", budget), f"no arm has this budget; known are: {', '.join(sorted(budgets))}"
        if budget not in (own, "100%"):  # at 100 % every selector takes the same samples
            problem = f"`{name}` has budget {own}; a baseline must have the budget of its arms"
            yield ("baseline", budget), problem
