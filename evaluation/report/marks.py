"""Which values a table marks as best and second: only those that a claim stands behind."""

from evaluation.comparison import ArmResult, Comparison, Difference
from evaluation.report.table import Mark
from evaluation.suite import Benchmark


def marks(comparison: Comparison, benchmark: Benchmark | None = None) -> dict[str, Mark]:
    """Arm -> mark of its mean, or of its score on one benchmark; arms without a mark are not in it.

    Of the arms of a budget, without the reference arm, the best one is marked if its corrected interval says
    that it is above the baseline, or, if the baseline is the best, if all others are below it. The second is
    marked if the best is and its own interval is above the baseline too. One repetition on a side has no
    interval, hence no mark.
    """
    found: dict[str, Mark] = {}
    for budget in dict.fromkeys(arm.budget for arm in comparison.arms):
        arms = [
            arm for arm in comparison.arms if arm.budget == budget and arm.arm != comparison.reference_arm
        ]
        found |= _of_budget(sorted(arms, key=lambda arm: -_score(arm, benchmark)), benchmark)
    return found


def _of_budget(arms: list[ArmResult], benchmark: Benchmark | None) -> dict[str, Mark]:
    """The marks of arms of one budget, best first."""
    if len(arms) < 2:
        return {}
    best, second, *_ = arms
    others = [arm for arm in arms if arm is not best]
    if all(arm.baseline == best.arm and _side(arm, benchmark) < 0 for arm in others):
        return {best.arm: "best"}
    if _side(best, benchmark) <= 0:
        return {}
    found: dict[str, Mark] = {best.arm: "best"}
    if _side(second, benchmark) > 0:
        found[second.arm] = "second"
    return found


def _score(arm: ArmResult, benchmark: Benchmark | None) -> float:
    """Its score, higher for the better arm."""
    if benchmark is None:
        return arm.mean.mean
    return benchmark.sign * arm.benchmarks[benchmark.name].mean


def _side(arm: ArmResult, benchmark: Benchmark | None) -> int:
    """1 if the corrected interval is above the baseline, -1 below, 0 if neither or not known."""
    if not arm.claim or arm.claim.verdict is None:
        return 0
    d: Difference | None = (
        arm.difference if benchmark is None else arm.benchmark_differences.get(benchmark.name)
    )
    if d is None:
        return 0
    return (d.corrected_low > 0) - (d.corrected_high < 0)
