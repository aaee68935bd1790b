"""Means and differences by pool."""

from dataclasses import replace

from evaluation.comparison import ArmResult, Comparison
from evaluation.report.table import Cell, Column, Table, number_cell
from evaluation.report.tables.rows import Of, by_arm, names_of
from evaluation.statistics.basic import std


def pools_table(comparison: Comparison) -> Table:
    """Mean and difference of each arm on each pool, and their standard deviations; no rows for one pool."""

    def column(at: int, pool: int | None) -> Of:
        return Of(Column(f"pool {pool}", (f"mean_{pool}", f"difference_{pool}")), lambda arm: _pool(arm, at))

    columns = [
        *names_of(comparison),
        *(column(at, pool) for at, pool in enumerate(comparison.pools)),
        Of(
            Column("std of means", ("std_means",)),
            lambda arm: number_cell(std(arm.pool_means), "{:.1f}".format),
        ),
        Of(
            Column("std of differences", ("std_differences",)),
            lambda arm: number_cell(
                std(arm.pool_differences) if arm.pool_differences else None, "{:.1f}".format
            ),
        ),
    ]
    table = by_arm("pools", "Pools", comparison, columns, "Mean, and the difference in brackets, by pool.")
    return table if len(comparison.pools) > 1 else replace(table, rows=())


def _pool(arm: ArmResult, at: int) -> Cell:
    mean = arm.pool_means[at]
    if not arm.pool_differences:
        return Cell(f"{mean:.1f}", (mean, None))
    difference = arm.pool_differences[at]
    return Cell(f"{mean:.1f} ({difference:+.1f})", (mean, difference))
