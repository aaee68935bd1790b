"""The regime in which data matters: gates on a finished comparison, fixed before any selector was tried.

    regime_verdicts(json.loads(Path("runs/mini_regime/comparison.json").read_text()))

The gates test the experimental set-up, not a method: does training on all data help, does more random data
help, does the model use the image, do seeds agree. A gate that the comparison cannot answer (missing arm or
shuffled-image score) fails.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

FULL, MORE, LESS = "full", "random_30", "random_10"
"""The arms of the gates: the whole pool, random 30 % and random 10 %."""
GROUNDED_GAIN = 0.30
"""Minimum of the full arm's mean over benchmarks of (score - score with another question's image), in 0..1.
"""
FULL_ERRORS = 3.0
"""The full arm's mean must exceed random 30 % by more than this many standard errors, over seeds."""
RANDOM_ERRORS = 2.0
"""Random 30 % must exceed random 10 % by more than this many standard errors of the difference, over seeds.
"""
SEED_STD = 0.012
"""Maximum standard deviation over seeds of an arm's mean, in 0..1; required of each of the three arms."""
FULL_SEEDS = 3
"""Minimum number of seeds of the full arm."""

Content = Mapping[str, Any]
"""The content of comparison.json: `evaluation.comparison.Comparison.to_dict`."""


class Unmeasured(Exception):
    """The comparison lacks a value that a gate needs."""


@dataclass(frozen=True)
class Verdict:
    """The printed result of one gate; `n` is the number of seeds, questions or benchmarks behind `value`.

    `gate` and `wanted` are filled in by `Gate.judge`.
    """

    value: str
    n: str
    passed: bool
    note: str = ""
    gate: str = ""
    wanted: str = ""


@dataclass(frozen=True)
class Gate:
    """A criterion that was fixed in advance, and how it is measured. `measure` may raise Unmeasured."""

    name: str
    wanted: str
    measure: Callable[[Content], Verdict]

    def judge(self, comparison: Content) -> Verdict:
        """The verdict on a comparison; not passed if it cannot be measured."""
        try:
            verdict = self.measure(comparison)
        except Unmeasured as error:
            verdict = Verdict("–", "–", False, str(error))
        return self.named(verdict)

    def named(self, verdict: Verdict) -> Verdict:
        """The verdict with this gate's name and criterion."""
        return replace(verdict, gate=self.name, wanted=self.wanted)


@dataclass(frozen=True)
class Level:
    """One benchmark of the full arm. All values are in 0..1 of its scale; None if not measured.

    `gain` is the grounded gain: score - shuffled, over the repetitions evaluated both ways (inverted when
    lower is better). `full` is over all repetitions, so it need not be the sum of the two.
    """

    label: str
    full: float
    blind: float | None
    shuffled: float | None
    gain: float | None
    chance: float
    n: int
    higher: bool

    @property
    def above_blind(self) -> bool:
        """Strictly better than the best answer without the image; False if that was not measured."""
        return self.blind is not None and (self.full > self.blind if self.higher else self.full < self.blind)


def regime_verdicts(comparison: Content) -> list[Verdict]:
    """The verdicts on all gates, in the order of GATES."""
    return [gate.judge(comparison) for gate in GATES]


def levels(comparison: Content) -> list[Level]:
    """The full arm's benchmarks with the levels reached without the image. Unmeasured without a full arm."""
    full = _arm(comparison, FULL)
    of_benchmark = {
        "blind": comparison["blind"],
        "shuffled": full["shuffled"] or {},
        "gain": full["grounded"] or {},
        "chance": comparison["chance"],
    }
    rows = []
    for b in comparison["suite"]["benchmarks"]:
        values = {name: level.get(b["name"]) for name, level in of_benchmark.items()}
        scaled: dict[str, Any] = {
            name: None if value is None else value / b["scale"] for name, value in values.items()
        }
        rows.append(
            Level(
                label=b["label"],
                full=full["benchmarks"][b["name"]]["mean"] / b["scale"],
                n=comparison["n"][b["name"]],
                higher=b["direction"] == "higher",
                **scaled,
            )
        )
    return rows


def grounded_gain(comparison: Content) -> Verdict:
    """The full arm's score minus its shuffled-image score, mean over benchmarks; repetitions with both."""
    full = _arm(comparison, FULL)
    if full["grounded_mean"] is None:
        missing = [level.label for level in levels(comparison) if level.gain is None]
        raise Unmeasured(f"no shuffled-image score of {', '.join(missing)}")
    value, std = full["grounded_mean"]["mean"] / 100, full["grounded_mean"]["std"]
    return Verdict(
        f"{value:.4f}",
        f"{len(full['grounded'])} benchmarks",
        value >= GROUNDED_GAIN,
        "one seed evaluated both ways" if std is None else f"standard deviation over seeds {std / 100:.4f}",
    )


def above_blind(comparison: Content) -> Verdict:
    """Number of benchmarks on which the full arm exceeds the best answer without the image."""
    rows = levels(comparison)
    short = [_short(level) for level in rows if not level.above_blind]
    return Verdict(
        f"{len(rows) - len(short)} of {len(rows)}",
        f"{len(rows)} benchmarks",
        not short,
        f"not above: {', '.join(short)}" if short else "",
    )


def _short(level: Level) -> str:
    return (
        f"{level.label} (not measured)"
        if level.blind is None
        else f"{level.label} ({level.full:.3f}, blind {level.blind:.3f})"
    )


def difference(comparison: Content, upper: str, lower: str, errors: float) -> Verdict:
    """Difference of two arms' means against its standard error over seeds, sqrt(s1^2 / n1 + s2^2 / n2).

    The arms are assumed to be independent. A seed's random 10 % is part of its random 30 % and shares the
    training seed, so the true error of that difference can only be smaller.
    """
    (a, na, sa), (b, nb, sb) = (_seeds(comparison, name) for name in (upper, lower))
    error = math.sqrt(sa**2 / na + sb**2 / nb)
    ratio = f"{(a - b) / error:.2f} errors of {error:.4f}" if error else "no error"
    return Verdict(f"{a - b:+.4f} ({ratio})", f"{na} and {nb} seeds", a - b > errors * error)


def seed_std(comparison: Content, arm: str) -> Verdict:
    """Sample standard deviation of an arm's mean over its seeds."""
    _, n, std = _seeds(comparison, arm)
    return Verdict(f"{std:.4f}", f"{n} seeds", std <= SEED_STD)


def full_seeds(comparison: Content) -> Verdict:
    """Number of independent trainings on the whole pool."""
    n = _arm(comparison, FULL)["units"]
    return Verdict(str(n), f"{n} seeds", n >= FULL_SEEDS)


GATES = (
    Gate("full: real minus shuffled image, mean of benchmarks", f">= {GROUNDED_GAIN}", grounded_gain),
    Gate("full: benchmarks above their blind majority", "every one", above_blind),
    Gate(
        f"{FULL} above {MORE}",
        f"> {FULL_ERRORS:g} standard errors",
        partial(difference, upper=FULL, lower=MORE, errors=FULL_ERRORS),
    ),
    Gate(
        f"{MORE} above {LESS}",
        f"> {RANDOM_ERRORS:g} standard errors",
        partial(difference, upper=MORE, lower=LESS, errors=RANDOM_ERRORS),
    ),
    *(
        Gate(
            f"{arm}: standard deviation of the mean over seeds", f"<= {SEED_STD}", partial(seed_std, arm=arm)
        )
        for arm in (FULL, MORE, LESS)
    ),
    Gate("full: seeds", f">= {FULL_SEEDS}", full_seeds),
)


def _arm(comparison: Content, name: str) -> Mapping[str, Any]:
    """The arm of this name; Unmeasured if there is none."""
    arm = next((arm for arm in comparison["arms"] if arm["arm"] == name), None)
    if arm is None:
        raise Unmeasured(f"this comparison has no arm `{name}`")
    return arm


def _seeds(comparison: Content, name: str) -> tuple[float, int, float]:
    """(mean, number, sample standard deviation) of an arm's mean over its seeds, in 0..1."""
    spread, n = _arm(comparison, name)["mean"], _arm(comparison, name)["units"]
    if spread["std"] is None:
        raise Unmeasured(f"arm `{name}` has one seed: its standard deviation is unknown")
    return spread["mean"] / 100, n, spread["std"] / 100
