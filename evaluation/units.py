"""Units and weights: a benchmark's value is the sum of weight x score over its units.

A unit is one question, or the questions that only count together: the two questions of an MME image, the
rotations of an MMBench question. Categories of units may weigh alike (MMStar, MME). All statistics go over
units, since only they vary independently.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from evaluation.suite import Benchmark, Unit

Docs = Sequence[Mapping[str, Any]]
"""The rows of a benchmark's data, without images."""


class UnitError(ValueError):
    """Questions that do not form the units that the suite declares."""


class Layout(NamedTuple):
    """The unit, the stratum (category whose units weigh alike) and the weight of each question.

    A unit's weight is shared evenly by its questions: the sum of weight x score of the unit over all
    questions is the benchmark's value.
    """

    units: list[str]
    strata: list[str]
    weights: list[float]


def layout(benchmark: Benchmark, docs: Docs) -> Layout:
    """The units of a benchmark's questions. Raises UnitError for a unit in two strata."""
    units = unit_names(benchmark.unit, docs)
    strata = [_joined(doc, benchmark.weight.by) for doc in docs]
    stratum_of: dict[str, str] = {}
    for name, stratum in zip(units, strata, strict=True):
        if stratum_of.setdefault(name, stratum) != stratum:
            raise UnitError(f"{benchmark.name}: {benchmark.unit.name} {name!r} is in two categories")
    sizes, questions = Counter(stratum_of.values()), Counter(units)
    shares = 1 / of_whole(benchmark, len(sizes)) if benchmark.weight.across == "sum" else len(sizes)
    weights = [
        benchmark.weight.points / (sizes[stratum] * shares * questions[name])
        for name, stratum in zip(units, strata, strict=True)
    ]
    return Layout(units, strata, weights)


def of_whole(benchmark: Benchmark, present: int) -> float:
    """By how much a sum over the categories that are present is extended to all of them; 1 with all data."""
    weight = benchmark.weight
    return (weight.categories or present) / present if weight.across == "sum" else 1.0


def unit_names(unit: Unit, docs: Docs) -> list[str]:
    """The name of each question's unit; without columns, its position."""
    if not unit.by:
        return [str(index) for index in range(len(docs))]
    if unit.modulo:
        return [str(int(doc[unit.by[0]]) % unit.modulo) for doc in docs]
    return [_joined(doc, unit.by) for doc in docs]


def unit_scores(unit: Unit, names: Sequence[str], scores: Sequence[float]) -> list[float]:
    """The score of each question's unit, from the scores in 0..1 of the unit's questions."""
    members: dict[str, list[float]] = {}
    for name, score in zip(names, scores, strict=True):
        members.setdefault(name, []).append(score)
    of_unit = {name: _score(unit.score, own) for name, own in members.items()}
    return [of_unit[name] for name in names]


def _score(rule: str, scores: Sequence[float]) -> float:
    average, right = sum(scores) / len(scores), float(min(scores) >= 1)
    return {"mean": average, "all": right, "pair": average + right}[rule]


def check_limit(benchmark: Benchmark, docs: Docs, limit: int) -> None:
    """Raises UnitError if the first `limit` of all questions hold a part of a unit."""
    if not benchmark.unit.by or limit >= len(docs):
        return
    names = unit_names(benchmark.unit, docs)
    last = {name: at for at, name in enumerate(names)}
    whole = _whole_prefixes(names, last)
    if limit in whole:
        return
    near = (max((n for n in whole if n < limit), default=None), min(n for n in whole if n > limit))
    split = next(name for name in names[:limit] if last[name] >= limit)
    raise UnitError(
        f"limit {limit} splits {benchmark.unit.name} {split!r} of {benchmark.name}, which only counts as a "
        f"whole; the nearest limits that split none: {', '.join(str(n) for n in near if n)}"
    )


def _whole_prefixes(names: Sequence[str], last: Mapping[str, int]) -> list[int]:
    """The numbers of first questions that hold no part of a unit; `last`: place of each unit's last one."""
    furthest = accumulate((last[name] for name in names), max)
    return [n for n, end in enumerate(furthest, 1) if end < n]


def _joined(doc: Mapping[str, Any], columns: Sequence[str]) -> str:
    return " / ".join(str(doc[column]) for column in columns)
