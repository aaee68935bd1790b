"""Budgets in compute, and what the comparison needs to tell costs: which stages were needed for which subset.

A budget `flops:N` (or `gpuh:N`, by the GPU and MFU of `resources`) pays for an arm's selection and its
training; `as:ARM` is what that arm costs in all. How many samples it buys is decided in stage `select`, from
the lengths of the pool's samples: an estimate of today would not be the same tomorrow, and a plan's hashes
would change.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from recipes.bought import AS, flops_of
from recipes.external import External
from recipes.graph import Node, Plan, dump
from recipes.load import Loaded
from recipes.plan_steps import above, beyond_pool, places
from recipes.schema import Arm, required
from recipes.schema.base import in_compute

if TYPE_CHECKING:
    from recipes.plan_signals import PoolPlan

SPENDING = "recipes.spending"
"""The module that stage `select` counts FLOPs with; other selections do not depend on its code."""

LIKE_AN_ARM = ("matched", "tokens")
"""Kinds of controls that are drawn at random to be like the subset of an arm, their `reference`."""


class Run(Protocol):
    """One repetition of an arm: how the report describes it, and its stages."""

    @property
    def about(self) -> dict[str, Any]: ...
    @property
    def select(self) -> Node | None: ...
    @property
    def train(self) -> Node | None: ...


def budget_of(
    pool: "PoolPlan", arm: Arm, columns: dict[str, Node], subset_of: Callable[[str], Node]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(keys of the config, inputs) that a budget adds to stage `select`; none for one in samples or tokens.

    columns: the stages that the selector reads; subset_of: plans the subset of another arm, by its name.
    """
    if not in_compute(arm.budget):
        return {"budget": arm.budget}, {}
    text, tokens, base = str(arm.budget), pool.own_tokens, pool.base
    train = dump(required(pool.loaded.recipe.train))
    inputs: dict[str, Any] = {"tokens": tokens}
    if text.startswith(AS):
        spender = subset_of(text.removeprefix(AS))
        text, inputs["spender"] = f"{AS}spender", spender
        needed = beyond_pool(spender, above(tokens))
    else:
        text, needed = in_flops(text, pool.loaded), _needed(pool, columns, tokens)
    inputs["costed"] = needed or None
    paths = places([pool.pool, tokens, *needed]) | {base.hash: str(base.path)}
    return {
        "budget": text,
        "costs": {"by": SPENDING, "train": train, "base": base.hash, "model_paths": paths},
    }, inputs


def _needed(pool: "PoolPlan", columns: dict[str, Node], tokens: Node) -> list[Node]:
    """The stages that the selector's columns need beyond the pool."""
    reader = Node("select", "select", {}, {"pool": pool.pool, **columns}, "")
    return [node for node in beyond_pool(reader, above(tokens)) if node is not reader]


def in_flops(budget: str, loaded: Loaded) -> str:
    """`gpuh:10` as `flops:N`, by the GPU of `resources` and its MFU; other budgets as they are."""
    if not budget.startswith("gpuh:"):
        return budget
    from recipes.schema.base import canonical_budget
    from training.estimate.cost import MFU
    from training.estimate.gpus import gpu_of

    resources = loaded.recipe.resources
    flops = float(budget[5:]) * 3600 * gpu_of(required(resources.gpu)).peak * (resources.mfu or MFU)
    return str(canonical_budget(f"flops:{flops:.0f}"))


def costed(
    runs: Sequence[Run], pools: Sequence["PoolPlan"], loaded: Loaded, base: External
) -> tuple[dict[str, Any], list[Node]]:
    """(config, stages) by which the comparison tells what each run cost.

    The config has for each run the places among the stages of its pool, tokens, training and selection.
    """
    by_seed = {pool.seed: pool for pool in pools}
    nodes: dict[Node, int] = {}

    def place(node: Node | None) -> int | None:
        return None if node is None else nodes.setdefault(node, len(nodes))

    about = []
    for run in runs:
        pool = by_seed[run.about["pool_seed"]]
        needed = beyond_pool(run.select, _free(run, pool)) if run.select else []
        about.append(
            {
                "arm": run.about["arm"],
                "pool": place(pool.pool),
                "tokens": place(pool.own_tokens) if run.train else None,
                "train": place(run.train),
                "subset": place(run.select),
                "selection": [place(node) for node in needed],
            }
        )
    resources = dump(loaded.recipe.resources, "gpu", "mfu", "usd_per_gpu_hour")
    paths = places(nodes) | {base.hash: str(base.path)}
    return {"runs": about, **resources, "model_paths": paths}, list(nodes)


def _free(run: Run, pool: "PoolPlan") -> Iterator[Node]:
    """Stages that a run's subset needs and that are no cost of its selection.

    Every training reads the tokens. Random samples that are like an arm's are told what these are like: that
    they had to be selected is a cost of the arm, and drawing at random costs nothing.
    """
    yield from above(pool.own_tokens)
    if run.about["control"] in LIKE_AN_ARM and run.select:
        yield from above(cast(Node, run.select.inputs["reference"]))


def refuse_unaffordable(plan: Plan, runs: Sequence[Run], loaded: Loaded) -> None:
    """Refuses stage `select` where selecting alone costs more than an arm's budget, or cannot be counted.

    What it costs is counted from the pool, if that is built, else from lengths that are assumed: then the
    pool can be built before (`--until clean`).
    """
    for run in runs:
        budget = in_flops(str(run.about["budget"]), loaded)
        if run.select is None or not budget.startswith("flops:"):
            continue
        allowed = float(budget.removeprefix("flops:"))
        needed = cast("list[Node]", run.select.inputs.get("costed", []))
        if problem := _problem(allowed, needed, run.select, loaded):
            key = f"arms.{run.about['arm']}.budget"
            where = loaded.locate("arms", run.about["arm"], "budget")
            plan.refusals.setdefault("select", f"{where}: {key}: {run.about['budget']}: {problem}")


def _problem(allowed: float, needed: Sequence[Node], select: Node, loaded: Loaded) -> str | None:
    """Why a budget of so many FLOPs cannot be kept, or does not suffice for the selection."""
    from recipes.training_costs import TrainingCosts

    root = Path(loaded.recipe.root).expanduser().resolve()
    costs = TrainingCosts(loaded, root)
    pool = cast(Node, select.inputs["pool"])
    selecting, notes = flops_of(needed, select, lambda _, shape: costs.samples(pool, shape))
    if selecting is None:
        return f"what selecting costs cannot be counted, so give a budget in samples: {'; '.join(notes)}"
    if selecting < allowed:
        return None
    said = f"selecting alone costs {selecting:.3g} FLOPs of the {allowed:.3g} that are allowed"
    if costs.built(pool):
        return said
    return f"{said}, by assumed lengths; build the pool first (--until {pool.kind}) to count its own"
