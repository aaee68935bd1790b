"""The tables and the summary of an experiment's run, from the content of comparison.json."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Table = tuple[list[str], list[list[Any]]]
"""(columns, rows)"""
DIFFERENCE = ("value", "low", "high", "stderr", "df", "p", "corrected_low", "corrected_high", "corrected_p")
"""Keys of a difference: points, its own 95 % interval, and those that hold for all differences at once."""
CLAIM = ("verdict", "scope", "margin", "family", "reason")
COLUMNS = (
    *("arm", "budget", "baseline", "targeted", "units", "mean", "std", "full", "above"),
    *("difference" if key == "value" else key for key in DIFFERENCE),
    *CLAIM,
    *("needs", "rests_on", "shuffled", "grounded"),
)
"""Columns of the table of arms, before those of the benchmarks."""


def arms(comparison: Mapping[str, Any]) -> Table:
    """A row for each arm, then the chance level and the blind level."""
    benchmarks = comparison["suite"]["benchmarks"]
    tasks = [benchmark["name"] for benchmark in benchmarks]
    rows = [_arm(arm, tasks) for arm in comparison["arms"]]
    rows += [_level(name, comparison[name], benchmarks) for name in ("chance", "blind")]
    return [*COLUMNS, *tasks], rows


def repetitions(comparison: Mapping[str, Any]) -> Table:
    """A row for each repetition of each arm: its mean over the benchmarks in %."""
    rows = [
        [arm["arm"], arm["budget"], number, mean]
        for arm in comparison["arms"]
        for number, mean in enumerate(arm["unit_means"])
    ]
    return ["arm", "budget", "repetition", "mean"], rows


def benchmarks(comparison: Mapping[str, Any]) -> Table:
    """A row for each arm and benchmark: score, its spread over repetitions, difference with its interval."""
    rows = []
    for arm in comparison["arms"]:
        for name, spread in arm["benchmarks"].items():
            gap = arm["benchmark_differences"].get(name) or {}
            differences = [gap.get(key) for key in DIFFERENCE]
            rows.append([arm["arm"], arm["budget"], name, spread["mean"], spread["std"], *differences])
    heads = ["difference" if key == "value" else key for key in DIFFERENCE]
    return ["arm", "budget", "benchmark", "score", "std", *heads], rows


def summary(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """The main values of each arm, by `<arm>/<value>`; `claim` in words."""
    return dict(_summary(comparison["arms"]))


def _summary(arms: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    for arm in arms:
        name, gap, claim = arm["arm"], arm["difference"] or {}, arm.get("claim")
        values = {"mean": arm["mean"]["mean"], "full": arm["full"]}
        values |= {"difference" if key == "value" else key: gap.get(key) for key in DIFFERENCE}
        yield from ((f"{name}/{key}", value) for key, value in values.items() if value is not None)
        if claim:
            yield f"{name}/claim", claim_in_words(claim, arm["baseline"])


def claim_in_words(claim: Mapping[str, Any], baseline: str | None) -> str:
    """Such as `beats random on this pool`, or why nothing may be said."""
    verdict, needs = claim["verdict"], needs_in_words(claim.get("needs"))
    if verdict is None:
        return f"no claim: {claim['reason']}"
    if verdict == "equivalent":
        return f"equivalent to {baseline} within {claim['margin']:g} points {claim['scope']}"
    if verdict == "undecided":
        return f"undecided against {baseline} {claim['scope']}" + (f": {needs}" if needs else "")
    return f"{verdict} {baseline} {claim['scope']}"


def needs_in_words(needs: Mapping[str, Any] | None) -> str:
    """The smallest design that would decide; empty where it is not known."""
    if not needs:
        return ""
    if needs["pools"] is None or needs["seeds"] is None:
        return str(needs["reason"])
    return f"would need {needs['pools']} pools x {needs['seeds']} seeds"


def _arm(arm: Mapping[str, Any], tasks: Sequence[str]) -> list[Any]:
    gap, claim, robust = arm["difference"] or {}, arm.get("claim") or {}, arm.get("robustness") or {}
    return [
        *(arm["arm"], arm["budget"], arm["baseline"], arm["targeted"], arm["units"]),
        *(arm["mean"]["mean"], arm["mean"]["std"], arm["full"], arm["above"]),
        *(gap.get(key) for key in DIFFERENCE),
        *(claim.get(key) for key in CLAIM),
        *(needs_in_words(claim.get("needs")), ", ".join(robust.get("rests_on", ()))),
        *(arm[name] and arm[name]["mean"] for name in ("shuffled_mean", "grounded_mean")),
        *(arm["benchmarks"][task]["mean"] for task in tasks),
    ]


def _level(name: str, levels: Mapping[str, Any], benchmarks: Sequence[Mapping[str, Any]]) -> list[Any]:
    """A level's mean in % (None unless it is known for every benchmark) and its value on each benchmark."""
    values = [levels[benchmark["name"]] for benchmark in benchmarks]
    percents = [
        100 * value / benchmark["scale"]
        for value, benchmark in zip(values, benchmarks, strict=True)
        if value is not None
    ]
    mean = sum(percents) / len(percents) if len(percents) == len(benchmarks) else None
    row = dict.fromkeys(COLUMNS) | {"arm": name, "budget": "", "mean": mean}
    return [*row.values(), *values]
