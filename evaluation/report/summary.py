"""What a comparison shows, in plain words without markup: a first paragraph, and a sentence for each arm.

paragraph(comparison, context)      # what was compared, what holds, what does not, what would decide it
arm_sentences(comparison)           # one for each arm that is compared with a baseline

`evaluation.report.caveats` has the sentences on why values may not be comparable with others. Verdicts come
from `Claim` alone: an interval that holds for all differences at once.
"""

from collections.abc import Iterator, Sequence

from evaluation.comparison import Against, ArmResult, Claim, Comparison, Difference, Verdict
from evaluation.context import Context
from evaluation.figures.arms import is_anchor
from evaluation.report.caveats import caveats
from evaluation.report.sentence import Sentence
from evaluation.report.table import DASH
from evaluation.report.tables.robustness import finds, rests_on
from evaluation.report.tables.rows import by_difference, grouped, kind_of
from evaluation.report.words import (
    corrected,
    counted,
    design,
    listed,
    margin,
    p_value,
    points,
    sided,
)

__all__ = ["Sentence", "arm_sentences", "caveats", "paragraph"]
NAMED = 4
"""Arms that a sentence of the first paragraph names; of more it names the first and counts the others."""


def paragraph(comparison: Comparison, context: Context) -> str:
    """The whole experiment in a paragraph of plain sentences, for a reader who reads nothing else."""
    arms = tested_arms(comparison)
    parts = [_compared(comparison, context)]
    if arms:
        parts += [
            _scope(comparison, arms),
            *_holds(arms),
            *_hangs(comparison, arms),
            *_open(comparison, arms),
        ]
    parts += _controls(comparison)
    names = [said.subject for said in caveats(comparison, context)]
    if names:
        parts.append(f"Read this with the caveats below: {listed(names)}.")
    return " ".join(parts)


def tested_arms(comparison: Comparison) -> list[ArmResult]:
    """The arms under test that are compared with a baseline, the largest difference first."""
    return by_difference([arm for arm in grouped(comparison)["arms"] if arm.difference and arm.claim])


def _compared(comparison: Comparison, context: Context) -> str:
    """What was run: arms, baselines, repetitions, benchmarks."""
    groups, suite = grouped(comparison), comparison.suite
    subjects = listed([arm.arm for arm in groups["arms"]], NAMED) or "no arm under test"
    against = f" with {listed(comparison.baselines, NAMED)}" if comparison.baselines else ""
    single = len(suite) == 1
    return (
        f"{context.title} compares {subjects}{against}{_budgets(groups['arms'])}, on "
        f"{_repetitions(comparison)}, by "
        + (
            f"the score on {suite.benchmarks[0].label} alone"
            if single
            else f"the mean over {len(suite)} benchmarks"
        )
        + f" (suite {suite.name})."
    )


def _budgets(arms: Sequence[ArmResult]) -> str:
    """` at a budget of 10%`, ` at budgets of 10% and 30%`."""
    budgets = list(dict.fromkeys(arm.budget for arm in arms))
    if not budgets:
        return ""
    return f" at {'a budget' if len(budgets) == 1 else 'budgets'} of {listed(budgets, NAMED)}"


def _repetitions(comparison: Comparison) -> str:
    """`3 pools x 1 to 2 seeds`."""
    pools = len(comparison.pools)
    each = sorted({max(1, arm.units // pools) for arm in comparison.arms})
    seeds = counted(each[0], "seed") if len(each) == 1 else f"{each[0]} to {each[-1]} seeds"
    return f"{counted(pools, 'pool')} x {seeds}"


def _scope(comparison: Comparison, arms: Sequence[ArmResult]) -> str:
    """What the claims speak about."""
    claim = arms[0].claim
    assert claim  # tested_arms
    what = {
        "on this pool": "this one pool and these benchmarks; a claim about any pool needs at least three",
        "on these pools": "these two pools and these benchmarks; a claim about any pool needs at least three",
        "over pools": "pools like these, and of these benchmarks",
    }[claim.scope]
    many = claim.family > 1
    together = f" The intervals hold for all {claim.family} differences at once." if many else ""
    return f"It speaks of {what}.{together}"


def _holds(arms: Sequence[ArmResult]) -> Iterator[str]:
    """The claims that are made, and the arms about which none can be."""
    for word in ("beats", "loses to", "equivalent"):
        yield from _with_verdict(arms, word)
    if without := [arm.arm for arm in arms if arm.claim and arm.claim.verdict is None]:
        reasons = dict.fromkeys(arm.claim.reason for arm in arms if arm.claim and not arm.claim.verdict)
        yield f"No verdict on {listed(without, NAMED)}: {'; '.join(reasons)}."
    elif all(arm.claim and arm.claim.verdict == "undecided" for arm in arms):
        yield "No arm is shown to be better, worse or equivalent."


def _with_verdict(arms: Sequence[ArmResult], word: Verdict) -> Iterator[str]:
    """One sentence on the arms of a verdict: the first with their intervals, the number of the others."""
    found = [arm for arm in arms if arm.claim and arm.claim.verdict == word]
    if word == "loses to":
        found.reverse()
    for baseline in dict.fromkeys(arm.baseline for arm in found):
        own = [arm for arm in found if arm.baseline == baseline]
        verb = {
            "beats": ("beats", "beat"),
            "loses to": ("loses to", "lose to"),
            "equivalent": ("is equivalent to", "are equivalent to"),
        }[word]
        claim = own[0].claim
        assert claim and baseline
        within = f" within {margin(claim)}" if word == "equivalent" else ""
        yield (
            f"{listed([_measured(arm) for arm in own], NAMED)} {verb[len(own) > 1]} {baseline}{within} "
            f"{claim.scope}."
        )


def _measured(arm: ArmResult) -> str:
    """`mmssr (+2.10 points, +0.49 to +3.71)`."""
    d = arm.difference
    assert d
    return f"{arm.arm} ({points(d.value)} points, {corrected(d, ' to ')})"


def _hangs(comparison: Comparison, arms: Sequence[ArmResult]) -> Iterator[str]:
    """Claims that one benchmark carries, that an arm's own controls share, that leaked questions carry."""
    named = [
        f"{arm.arm} without {' or without '.join(labels)}"
        for arm in arms
        if (labels := rests_on(comparison, arm))
    ]
    if named:
        yield f"Without a single benchmark some claims would not be made: {listed(named, NAMED)}."
    unmatched = [
        f"{arm.arm} ({listed(kinds)})"
        for arm in arms
        if arm.claim and arm.claim.verdict == "beats" and (kinds := _not_beaten(comparison, arm))
    ]
    if unmatched:
        yield f"Arms that are not shown to beat controls of their own: {listed(unmatched, NAMED)}."
    other = comparison.without_leaks
    fallen = [
        arm.arm
        for arm in arms
        if other and arm.claim and sided(arm.claim) and _verdict(other, arm) != arm.claim.verdict
    ]
    if fallen:
        these = listed(fallen, NAMED)
        yield f"Without the questions that the pool repeats there is no such claim on {these}."


def _not_beaten(comparison: Comparison, arm: ArmResult) -> list[str]:
    """The kinds of its own controls that the arm is not shown to beat."""
    own = arm.own_controls.items()
    return [_kind(comparison, name) for name, found in own if found.claim.verdict != "beats"]


def _verdict(comparison: Comparison, arm: ArmResult) -> Verdict | None:
    """The verdict on the same arm in another comparison."""
    claim = comparison.arm(arm.arm).claim
    return claim.verdict if claim else None


def _open(comparison: Comparison, arms: Sequence[ArmResult]) -> Iterator[str]:
    """What is undecided, and what would decide it."""
    found = [arm for arm in arms if arm.claim and arm.claim.verdict == "undecided"]
    if not found:
        return
    claim = found[0].claim
    assert claim
    is_are = "is" if len(found) == 1 else "are"
    yield f"{listed([_measured(arm) for arm in found], NAMED)} {is_are} undecided {claim.scope}."
    effects = sorted(effect for arm in found if (effect := finds(comparison, arm)) is not None)
    if effects:
        span = dict.fromkeys(f"{effect:.2f}" for effect in (effects[0], effects[-1]))
        yield f"This design finds differences of {' to '.join(span)} points in 80 % of experiments."
    designs = [arm.claim.needs for arm in found if arm.claim and arm.claim.needs]
    sizes = sorted((n.pools * n.seeds, design(n)) for n in designs if n.pools and n.seeds)
    if sizes:
        ends = list(dict.fromkeys((sizes[0][1], sizes[-1][1])))
        yield f"To find a difference of {margin(claim)} would take {' to '.join(ends)}."
    if reasons := list(dict.fromkeys(n.reason for n in designs if n.reason)):
        yield f"What finding a difference of {margin(claim)} would take: {'; '.join(reasons)}."


def _controls(comparison: Comparison) -> Iterator[str]:
    """Controls about which a claim is made, in a sentence."""
    found = [
        f"{arm.arm} {_verb(arm.claim)} {arm.baseline}"
        for arm in grouped(comparison)["controls"]
        if arm.claim and arm.claim.verdict and not is_anchor(comparison, arm)
    ]
    if found:
        yield f"Of the controls, {listed(found, NAMED)}."


def _verb(claim: Claim) -> str:
    """The verdict between two names."""
    if claim.verdict == "equivalent":
        return f"is equivalent within {margin(claim)} to"
    return "is undecided against" if claim.verdict == "undecided" else str(claim.verdict)


# --------------------------------------------------------------------------------------- one for each arm


def arm_sentences(comparison: Comparison, kept: set[str] | None = None) -> list[Sentence]:
    """One sentence on each arm that is compared with a baseline, controls last; `kept`: of these arms."""
    return [
        _sentence(comparison, arm)
        for group in grouped(comparison).values()
        for arm in group
        if arm.difference
        and arm.claim
        and not is_anchor(comparison, arm)
        and (kept is None or arm.arm in kept)
    ]


def _sentence(comparison: Comparison, arm: ArmResult) -> Sentence:
    claim, d = arm.claim, arm.difference
    assert claim and d and arm.baseline
    base = comparison.arm(arm.baseline)
    what = f" ({arm.budget}{', targeted' if arm.targeted else ''})"
    values = f"{arm.mean.mean:.1f} against {base.mean.mean:.1f}, difference {points(d.value)} points"
    if claim.verdict is None:
        return Sentence(
            arm.arm,
            f"{what} against {base.arm} ({base.budget}): no verdict: {claim.reason}. {values}."
            f"{_own_controls(comparison, arm)}",
            False,
        )
    small = f", by less than {margin(claim)}," if sided(claim) and claim.reason else ""
    return Sentence(
        arm.arm,
        f"{what} {_verb(claim)} {base.arm} ({base.budget}){small} {claim.scope}: {values} (corrected 95 % "
        f"interval {corrected(d, ' to ')}, {_p(d)}, {counted(claim.family, 'difference')} at once)"
        f"{_benchmarks(comparison, arm)}.{_more(comparison, arm)}{_own_controls(comparison, arm)}",
    )


def _p(d: Difference) -> str:
    """`p 0.012` or `p below 0.001`, corrected."""
    return f"p {p_value(d.corrected_p).replace('<', 'below')}"


def _benchmarks(comparison: Comparison, arm: ArmResult) -> str:
    """On how many benchmarks it is above, beside what chance gives; nothing for one benchmark."""
    if len(comparison.suite) == 1 or arm.above is None:
        return ""
    null = arm.robustness.above_null if arm.robustness else None
    chance = f", where {null[0]} to {null[1]} are expected without a difference" if null else ""
    return f"; above it on {arm.above} of {len(comparison.suite)} benchmarks{chance}"


def _more(comparison: Comparison, arm: ArmResult) -> str:
    """What the claim rests on, or what would decide it."""
    claim = arm.claim
    assert claim
    if named := rests_on(comparison, arm):
        each = " or without ".join(named)
        return f" The claim rests on single benchmarks: it would not be made without {each}."
    if claim.verdict == "undecided" and claim.needs:
        if claim.needs.pools is None:
            return f" What finding {margin(claim)} would take: {claim.needs.reason}."
        return f" To find {margin(claim)} it would need {design(claim.needs)}."
    return ""


def _own_controls(comparison: Comparison, arm: ArmResult) -> str:
    """What the controls of this arm alone reach, and what is claimed of the arm against each."""
    own = [_beside(comparison, name, found) for name, found in arm.own_controls.items()]
    return f" Its own controls: it {listed(own)}." if own else ""


def _beside(comparison: Comparison, control: str, found: Against) -> str:
    """`beats matched random (44.2; +1.20, +0.21 to +2.19)`."""
    verb = _verb(found.claim) if found.claim.verdict else "has no verdict against"
    d, mean = found.difference, comparison.arm(control).mean.mean
    return f"{verb} {_kind(comparison, control)} ({mean:.1f}; {points(d.value)}{_to(d)})"


def _kind(comparison: Comparison, control: str) -> str:
    """What kind of control it is, in words."""
    return kind_of(comparison.arm(control)) or control


def _to(d: Difference) -> str:
    """`, +0.21 to +1.20`, the corrected interval; empty where it is not known."""
    ends = corrected(d, " to ")
    return "" if ends == DASH else f", {ends}"
