"""The content of a comparison of arms: what `evaluation.aggregate.compare` computes and reports show."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal

from evaluation.statistics.basic import Interval
from evaluation.suite import Suite

JSON_NAMES = {
    "relative": "full",
    "relative_std": "full_std",
    "relative_range": "full_range",
    "reference_arm": "full_arm",
}
"""Field -> key in comparison.json where they differ: the file format keeps the names of the column /FULL."""

DIGITS = 9
"""Decimals of every number of a comparison. Two processors may differ in the last of sixteen digits; rounded
they write the same bytes."""


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over the units (seeds) of an arm; std is None for one unit."""

    mean: float
    std: float | None


Verdict = Literal["beats", "loses to", "equivalent", "undecided"]
Scope = Literal["on this pool", "on these pools", "over pools"]
"""What a claim speaks about: the one pool or the two pools that were run, or pools drawn as the three or more
that were run."""


@dataclass(frozen=True)
class Difference(Interval):
    """An arm minus its baseline in points: `low` to `high` is the 95 % interval of this difference alone.

    `stderr`, `df`: standard error and its degrees of freedom. `p`: two-sided. `corrected_*`: the interval
    and p that hold at once for all differences of the family (`Claim.family`); words follow from these only.
    All but `value` are NaN where they are not known (one repetition on a side).
    """

    stderr: float
    df: float
    p: float
    corrected_low: float
    corrected_high: float
    corrected_p: float


@dataclass(frozen=True)
class Needs:
    """The smallest design of at most `pools` x `seeds` that would tell a difference of the margin.

    With 80 % power at the corrected level and the variances that were seen; `reason` instead of numbers
    where none would, because the questions alone leave too much.
    """

    pools: int | None
    seeds: int | None
    reason: str = ""


@dataclass(frozen=True)
class Components:
    """Standard deviations, in points of the mean over benchmarks, that a difference's error consists of.

    pools: of the difference between pools. seeds, base_seeds: of the repetitions of arm and baseline inside
    a pool, answers included. questions: what the choice of questions alone leaves in the difference.
    answers: what the answers of one repetition vary by, part of seeds. None: not estimable from this design.
    """

    pools: float | None
    seeds: float | None
    base_seeds: float | None
    questions: float | None
    answers: float | None


@dataclass(frozen=True)
class Claim:
    """What may be said of an arm against its baseline. `verdict` None: nothing, for the `reason`.

    `margin`: points within which two arms are called equivalent, declared before the run. `family`: number of
    differences that the corrected interval holds for at once. `needs`: for the verdict undecided.
    """

    verdict: Verdict | None
    margin: float
    scope: Scope
    family: int
    reason: str = ""
    needs: Needs | None = None
    components: Components | None = None


@dataclass(frozen=True)
class Against:
    """An arm against a control that is its alone, in the family of the differences to baselines."""

    difference: Difference
    claim: Claim


@dataclass(frozen=True)
class Robustness:
    """Whether a difference hangs on few benchmarks. Differences are in points, uncorrected.

    `without`: the difference when one benchmark is left out. `rests_on`: benchmarks without which a claim of
    `beats` or `loses to` would not be made. `median`: of the benchmarks' differences. `chance_corrected`: of
    the mean of (score - chance) / (scale - chance). `without_mme`: without that benchmark; None without it.
    `above_null`: 2.5 % and 97.5 % quantile of the number of benchmarks above the baseline where there is no
    difference.
    """

    without: dict[str, Difference]
    rests_on: tuple[str, ...]
    median: float
    chance_corrected: Difference | None
    without_mme: Difference | None
    above_null: tuple[int, int] | None


@dataclass(frozen=True)
class ArmResult:
    """One row of the comparison. Single benchmarks are in the metric's scale, means in % of the scales.

    Units are the repetitions of an arm on each pool: its selection seeds if there are several, else its
    training seeds. `unit_means` is the mean over benchmarks of each unit, grouped by pool; `pool_means` is
    that of each pool. `unparsed` is the share of all answers, in 0..1, that could not be parsed.

    `relative` is /FULL, the score in % of the reference arm (None without a reference arm, or when one of its
    scores is 0); `relative_range` is its lowest and highest value when any one benchmark is left out. `above`
    counts the benchmarks above the arm `baseline`. `difference` is the difference of `mean` to the
    baseline's, in points, with a 95 % interval; `benchmark_differences` and `pool_differences` are those of
    single benchmarks and pools; those of benchmarks are a family of their own, of all arms x benchmarks.
    Every difference is positive where the arm is better, also on a benchmark where lower is better, which
    enters means as what is missing to its whole scale (`Benchmark.percent`).
    `claim` and `robustness` are about `difference`.

    `shuffled` is the score of each benchmark with the images of other questions, over the repetitions
    evaluated with shuffled images; `grounded` is what these lose by it (score - shuffled, inverted when lower
    is better). A benchmark is None if no question could be given another's image; all is None if no
    repetition was evaluated this way. The two means are None unless all benchmarks have a value.

    `targeted`: the arm's selector saw validation data of the benchmarks. `control`: what the arm is a control
    for (empty: an arm under test); `control_of`: the only arm that it is one of. `anchor`: a level to read
    others by (all data, no training), about which nothing is claimed. `own_controls`: by name, the arm
    against each control that is its alone.
    """

    arm: str
    budget: str
    runs: int
    units: int
    unit_means: tuple[float, ...]
    benchmarks: dict[str, Spread]
    mean: Spread
    unparsed: float
    relative: float | None
    relative_std: float | None
    relative_range: tuple[float, float] | None
    above: int | None
    difference: Difference | None
    pool_means: tuple[float, ...] = ()
    baseline: str | None = None
    pool_differences: tuple[float, ...] = ()
    benchmark_differences: dict[str, Difference] = field(default_factory=dict)
    shuffled: dict[str, float | None] | None = None
    grounded: dict[str, float | None] | None = None
    shuffled_mean: Spread | None = None
    grounded_mean: Spread | None = None
    targeted: bool = False
    control: str = ""
    control_of: str = ""
    anchor: bool = False
    claim: Claim | None = None
    robustness: Robustness | None = None
    own_controls: dict[str, Against] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """All arms in the order of the runs, with chance, blind level (metric's scale), size of each benchmark.

    `baseline` is one arm, or {budget: arm}; `pools` are the pool seeds that every arm was run on; `units`
    counts those of each benchmark. `reading`: of each benchmark, over the answers of all arms, the shares
    "unparsed" and "truncated", and "lenient": what the uniform reading adds to the value (metric's scale).
    `decontamination`: whether samples of the pool that repeat questions were looked for, and what was found
    (`evaluation.report.leaks`). `without_leaks`: the same arms on the questions that no sample repeats; None
    where none is known to be repeated.
    """

    suite: Suite
    reference_arm: str | None
    baseline: str | dict[str, str] | None
    arms: tuple[ArmResult, ...]
    chance: dict[str, float]
    blind: dict[str, float | None]
    n: dict[str, int]
    protocol: dict[str, Any]
    pools: tuple[int | None, ...] = (None,)
    units: dict[str, int] = field(default_factory=dict)
    reading: dict[str, dict[str, float | None]] = field(default_factory=dict)
    decontamination: Mapping[str, Any] = field(default_factory=dict)
    without_leaks: "Comparison | None" = None

    @property
    def baselines(self) -> tuple[str, ...]:
        """The arms that others are compared with."""
        return tuple(dict.fromkeys(arm.baseline for arm in self.arms if arm.baseline))

    def levels(self, name: str) -> list[float | None]:
        """The "chance" or "blind" level of each benchmark, in the metric's scale; None if not measured."""
        by_task: Mapping[str, float | None] = self.chance if name == "chance" else self.blind
        return [by_task[b.name] for b in self.suite]

    def to_dict(self) -> dict[str, Any]:
        """The content of comparison.json; what is not known (NaN) is null there."""
        own = replace(self, suite=None, without_leaks=None)  # type: ignore[arg-type]
        content = _json_names(_known(asdict(own)))
        content["suite"] = self.suite.model_dump(mode="json")
        content["without_leaks"] = self.without_leaks and self.without_leaks.to_dict()
        return content | {"arms": [_json_names(arm) for arm in content["arms"]]}

    def arm(self, name: str) -> ArmResult:
        """The arm of this name; raises StopIteration if there is none."""
        return next(arm for arm in self.arms if arm.arm == name)


def rounded(value: Any) -> Any:
    """The same value with every float in it rounded to DIGITS, in records, mappings and sequences."""
    if isinstance(value, float):
        return round(value, DIGITS) + 0.0  # -0.0 becomes 0.0
    if is_dataclass(value) and not isinstance(value, type):
        own = {one.name: getattr(value, one.name) for one in fields(value)}
        return replace(value, **{name: rounded(part) for name, part in own.items()})
    if isinstance(value, Mapping):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(rounded(part) for part in value)
    return value


def _known(value: Any) -> Any:
    """`asdict`'s result with null for NaN and infinity, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _known(part) for name, part in value.items()}
    return [_known(part) for part in value] if isinstance(value, list | tuple) else value


def _json_names(content: dict[str, Any]) -> dict[str, Any]:
    return {JSON_NAMES.get(name, name): value for name, value in content.items()}
