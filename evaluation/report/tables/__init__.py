"""The tables of a comparison. Every cell is a value of the comparison; nothing is typed by hand.

all_tables(comparison, context)     # in the order of the report, each with its notes
"""

from evaluation.comparison import Comparison
from evaluation.context import Context
from evaluation.report.table import Table
from evaluation.report.tables.benchmarks import benchmarks_table, differences_table, grounding_table
from evaluation.report.tables.controls import controls_table
from evaluation.report.tables.costs import costs_table
from evaluation.report.tables.leaks import leaked_scores_table, leaks_table
from evaluation.report.tables.pools import pools_table
from evaluation.report.tables.results import results_table
from evaluation.report.tables.robustness import power_table, robustness_table
from evaluation.report.tables.subsets import mix_table, overlap_table, subsets_table


def all_tables(comparison: Comparison, context: Context) -> list[Table]:
    """All tables that the comparison has values for."""
    tables = (
        results_table(comparison),
        controls_table(comparison),
        benchmarks_table(comparison),
        differences_table(comparison),
        robustness_table(comparison),
        power_table(comparison),
        costs_table(comparison, context),
        pools_table(comparison),
        grounding_table(comparison),
        leaks_table(comparison),
        leaked_scores_table(comparison),
        subsets_table(comparison, context),
        overlap_table(context),
        mix_table(context),
    )
    return [table for table in tables if table.rows]
