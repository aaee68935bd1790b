"""What a plan expects each arm to cost, for a dry run."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from recipes.graph import Node, Plan
from recipes.plan_steps import step_of
from recipes.selection_costs import Costs
from recipes.steps import Step
from recipes.training_costs import TrainingCosts

if TYPE_CHECKING:
    from rich.table import Table

    from evaluation.context import Cost
    from training.estimate.lengths import Lengths
    from training.estimate.shapes import Shape


def planned_costs(plan: Plan, trainings: TrainingCosts, expected: Mapping[str, float | None]) -> Costs:
    """The costs that a plan expects. trainings: of the same recipe; expected: seconds of stages by name."""
    compare = plan.nodes[-1]
    nodes = cast(list[Node], compare.inputs["costed"])
    steps = [replace(step_of(node), seconds=expected.get(node.name)) for node in nodes]
    by_hash = {node.hash: node for node in nodes}

    def lengths(pool: str, shape: "Shape | None") -> "Lengths":
        return trainings.samples(by_hash[pool], shape)

    def trained(run: Mapping[str, Any]) -> float | None:
        cost = trainings.of(nodes[run["train"]])
        return cost.flops if cost else None

    def usd(step: Step) -> float | None:
        return trainings.usd(by_hash[step.hash])

    return Costs(compare.config["costs"], steps, lengths, trained=trained, usd=usd, exact=False)


def arm_table(costs: Mapping[str, "Cost"], gpu: str | None) -> "Table":
    """One row for each arm: what its selection costs, and beside it one training; empty: not known."""
    from recipes.progress import whole_table

    hours = f"{gpu} hours" if gpu else "GPU hours"
    headings = ("arm", "selection s", "FLOPs", hours, "$", "training FLOPs", hours)
    lines = []
    for arm, cost in costs.items():
        cells = (
            (cost.selection_seconds, ",.0f"),
            (cost.selection_flops, ".2g"),
            (cost.selection_gpu_hours, ",.3g"),
            (cost.selection_money, ",.2f"),
            (cost.training_flops, ".2g"),
            (cost.training_gpu_hours, ",.3g"),
        )
        lines.append((arm, *("" if value is None else format(value, form) for value, form in cells)))
    return whole_table("costs by arm: selection (mean of its runs), one training", headings, lines)
