"""How many samples a budget in compute is expected to buy, from a plan alone."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from recipes.graph import Node
from recipes.plan_steps import step_of
from recipes.stage_flops import StageFlops

if TYPE_CHECKING:
    from training.estimate.lengths import Lengths

AS = "as:"
"""Begins a budget that is what another arm costs."""


def bought(select: Node, samples: "Lengths", each: Callable[["Lengths"], float]) -> float:
    """Samples that a selection under a budget in compute is expected to choose.

    samples: of the pool; each: mean FLOPs of training on them, all epochs.
    """
    size = len(samples)
    flops = flops_of(cast("list[Node]", select.inputs.get("costed", [])), select, lambda *_: samples)[0]
    budget, cost = str(select.config["budget"]), each(samples)
    if budget == f"{AS}spender":
        spender = cast(Node, select.inputs["spender"])
        rows = bought(spender, samples, each) if "costs" in spender.config else _rows(spender, size)
        return min(size, rows + (flops or 0.0) / cost)
    return max(1.0, min(size, (float(budget.removeprefix("flops:")) - (flops or 0.0)) / cost))


def _rows(select: Node, size: int) -> float:
    """Samples of a selection whose budget is not in compute; one in tokens counts as the whole pool."""
    budget = select.config["budget"]
    if isinstance(budget, int):
        return budget
    return float(budget[:-1]) / 100 * size if budget.endswith("%") else size


def flops_of(
    needed: Sequence[Node], select: Node, lengths: Callable[[str, Any], "Lengths"]
) -> tuple[float | None, list[str]]:
    """(FLOPs of stages that a selection needs, why any cannot be counted)."""
    steps = {node.hash: step_of(node) for node in needed}
    rule = StageFlops(steps, select.config["costs"]["model_paths"], lengths, exact=False)
    flops = [rule.of(step) for step in steps.values()]
    return None if None in flops else sum(one for one in flops if one is not None), rule.notes
