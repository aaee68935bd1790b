"""Whether the differences hang on few benchmarks, and where their error comes from."""

import math
from dataclasses import replace

from evaluation.comparison import ArmResult, Comparison
from evaluation.report.table import DASH, Cell, Column, Table, number_cell
from evaluation.report.tables.cells import claimed_cell, interval, tested
from evaluation.report.tables.rows import Of, by_arm, names_of
from evaluation.report.words import design, points
from evaluation.statistics.power import smallest_effect
from evaluation.suite import Suite


def robustness_table(comparison: Comparison) -> Table:
    """Whether the differences hang on few benchmarks, on chance levels, on MME, or on leaked questions."""
    columns = [
        *names_of(comparison),
        Of(
            Column("difference", ("difference",)),
            lambda arm: number_cell(tested(arm, "value"), points),
        ),
        Of(
            Column("without one benchmark", ("without_low", "without_high", "lowest_without"), foreign=True),
            lambda arm: _without(arm, comparison.suite),
        ),
        Of(
            Column("rests on", ("rests_on",), left=True, foreign=True),
            lambda arm: _joined(rests_on(comparison, arm)),
        ),
        Of(
            Column("median of benchmarks", ("median",)),
            lambda arm: number_cell(arm.robustness.median if arm.robustness else None, points),
        ),
        *(
            Of(
                Column(title, (name, f"{name}_low", f"{name}_high")),
                lambda arm, name=name: interval(arm.robustness and getattr(arm.robustness, name)),  # type: ignore[misc]
            )
            for title, name in (("chance-corrected", "chance_corrected"), ("without MME", "without_mme"))
            if any(arm.robustness and getattr(arm.robustness, name) for arm in comparison.arms)
        ),
        *_leak_columns(comparison),
    ]
    few = " The suite has one benchmark, so that none can be left out." if len(comparison.suite) == 1 else ""
    return by_arm("robustness", "Robustness of the differences", comparison, columns, _ROBUSTNESS + few, True)


_ROBUSTNESS = (
    "In points. Without one benchmark: the lowest and highest difference when any one is left out. Rests on: "
    "benchmarks without which the claim would not be made. Chance-corrected: difference of the mean of "
    "(score - chance) / (scale - chance). Intervals in brackets are 95 %, each for itself."
)


def rests_on(comparison: Comparison, arm: ArmResult) -> list[str]:
    """Labels of the benchmarks without which the arm's claim would not be made."""
    names = arm.robustness.rests_on if arm.robustness else ()
    return [b.label for b in comparison.suite if b.name in names]


def _joined(names: list[str]) -> Cell:
    return Cell(", ".join(names) or DASH, (", ".join(names),))


def _without(arm: ArmResult, suite: Suite) -> Cell:
    """The range of the difference when one benchmark is left out, and the benchmark at its weak end.

    The weak end is the one that is closer to 0, or beyond it.
    """
    without = {name: d.value for name, d in arm.robustness.without.items()} if arm.robustness else {}
    if not without or not arm.difference:
        return Cell(DASH, (None, None, None))
    weak = (min if arm.difference.value > 0 else max)(without, key=lambda name: without[name])
    low, high = min(without.values()), max(without.values())
    named = next(b.label for b in suite if b.name == weak)
    return Cell(f"{points(low)} to {points(high)} (without {named})", (low, high, weak))


def _leak_columns(comparison: Comparison) -> list[Of]:
    """The difference on questions that no sample repeats, and its claim; none where none is repeated."""
    other = comparison.without_leaks
    if other is None:
        return []
    return [
        Of(
            Column("without leaks", ("without_leaks",)),
            lambda arm: number_cell(tested(other.arm(arm.arm), "value"), points),
        ),
        Of(
            Column("claim without leaks", ("verdict_without_leaks",), left=True),
            lambda arm: claimed_cell(other.arm(arm.arm)),
        ),
    ]


def power_table(comparison: Comparison) -> Table:
    """What the error of each difference consists of, and the design that would decide an open claim.

    No rows where nothing is known of any error, as for one repetition.
    """
    sources = (
        ("between pools", "pools"),
        ("between seeds", "seeds"),
        ("between the baseline's seeds", "base_seeds"),
        ("questions", "questions"),
        ("answers", "answers"),
    )

    def component(title: str, name: str) -> Of:
        def cell(arm: ArmResult) -> Cell:
            own = arm.claim.components if arm.claim else None
            return number_cell(getattr(own, name) if own else None, "{:.2f}".format)

        return Of(Column(title, (f"sd_{name}",)), cell)

    columns = [
        *names_of(comparison),
        *(component(title, name) for title, name in sources),
        Of(
            Column("standard error", ("stderr",)),
            lambda arm: number_cell(tested(arm, "stderr"), "{:.2f}".format),
        ),
        Of(Column("corrected half-width", ("half_width",)), _half_width),
        Of(
            Column("finds", ("finds",)),
            lambda arm: number_cell(finds(comparison, arm), "{:.2f}".format),
        ),
        Of(
            Column("would decide", ("needs_pools", "needs_seeds", "needs_reason"), left=True),
            _needs_cell,
        ),
    ]
    table = by_arm("power", "Where the error comes from", comparison, columns, _POWER, True)
    errors = [arm.difference.stderr for arm in comparison.arms if arm.difference]
    return replace(table, rows=()) if all(map(math.isnan, errors)) else table


_POWER = (
    "Standard deviations in points of the mean over benchmarks: between pools of the difference, between "
    "seeds inside a pool (answers included), of the choice of questions (the same for both arms), and of the "
    "answers of one repetition. A dash: this design cannot tell. Finds: the smallest difference that this "
    "design finds in 80 % of experiments at the corrected level. Would decide: the smallest design that "
    "finds a difference of the margin in 80 % of experiments at the corrected level."
)


def finds(comparison: Comparison, arm: ArmResult) -> float | None:
    """The smallest difference that this design finds with 80 % power, in points; None if not known."""
    claim = arm.claim
    if not claim or not claim.components or not claim.family or not arm.baseline:
        return None
    pools = len(comparison.pools)
    own, base = (max(1, one.units // pools) for one in (arm, comparison.arm(arm.baseline)))
    effect = smallest_effect(claim.components, pools, own, base, claim.family)
    return None if effect is None else float(effect)


def _half_width(arm: ArmResult) -> Cell:
    d = arm.difference
    return number_cell((d.corrected_high - d.corrected_low) / 2 if d else None, "{:.2f}".format)


def _needs_cell(arm: ArmResult) -> Cell:
    needs = arm.claim.needs if arm.claim else None
    values = (needs.pools, needs.seeds, needs.reason) if needs else (None,) * 3
    return Cell(design(needs), values)
