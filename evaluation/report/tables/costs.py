"""What selection and training of each arm cost, with the score beside it."""

from collections.abc import Callable
from dataclasses import replace

from evaluation.comparison import ArmResult, Comparison
from evaluation.context import Context, Cost
from evaluation.report.table import Column, Table, number_cell
from evaluation.report.tables.cells import spread, tested
from evaluation.report.tables.rows import Of, by_arm, names_of
from evaluation.report.words import points


def costs_table(comparison: Comparison, context: Context) -> Table:
    """Cost of selection and training by arm, with its score beside it; no rows where none is known."""

    def column(title: str, name: str, form: Callable[[float], str]) -> Of:
        return Of(Column(title, (name,)), lambda arm: number_cell(getattr(cost_of(context, arm), name), form))

    columns = [
        *names_of(comparison),
        Of(Column("mean", ("mean", "std")), lambda arm: spread(arm.mean)),
        Of(
            Column("difference", ("difference",)),
            lambda arm: number_cell(tested(arm, "value"), points),
        ),
        column("selection, s", "selection_seconds", "{:,.1f}".format),
        column("selection, FLOPs", "selection_flops", "{:.3g}".format),
        column("selection, GPU-hours", "selection_gpu_hours", "{:.3g}".format),
        column("selection, USD", "selection_money", "{:,.2f}".format),
        column("training, s", "training_seconds", "{:,.1f}".format),
        column("training, FLOPs", "training_flops", "{:.3g}".format),
        column("training, GPU-hours", "training_gpu_hours", "{:.3g}".format),
        Of(
            Column("selection / training", ("selection_share",)),
            lambda arm: number_cell(_share(cost_of(context, arm)), lambda share: f"{100 * share:.0f} %"),
        ),
    ]
    table = by_arm("costs", "Cost of selection and training", comparison, columns, _COSTS)
    return table if context.costs else replace(table, rows=())


_COSTS = (
    "Mean over the repetitions of an arm. Selection: all that the subset needed beyond the pool itself "
    "(teacher, fits, signals, the selection), whether another arm shares it or not. Seconds are those of the "
    "machine that ran it, FLOPs are counted by rule. Selection / training: ratio of the FLOPs, or of the "
    "seconds where these are not known. A dash: not known."
)


def cost_of(context: Context, arm: ArmResult) -> Cost:
    """The arm's cost; all unknown where the context has none."""
    return context.costs.get(arm.arm, Cost())


def _share(cost: Cost) -> float | None:
    """Cost of the selection as a share of that of the training."""
    for mine, other in (
        (cost.selection_flops, cost.training_flops),
        (cost.selection_seconds, cost.training_seconds),
    ):
        if mine is not None and other:
            return mine / other
    return None
