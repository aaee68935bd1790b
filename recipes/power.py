"""What more pools, seeds or questions would find: the lines of `recipes.report --power`."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple
from typing import TYPE_CHECKING, Any

from recipes.finished import NoResults

if TYPE_CHECKING:
    from rich.table import Table

    from evaluation.comparison import Components

QUESTIONS = (1, 2, 4)
"""Sizes of the benchmarks, as multiples of those that were asked."""


def power_lines(comparison: Mapping[str, Any]) -> "Iterator[str | Table]":
    """Tables and sentences, from the content of comparison.json.

    Variances are means over the arms under test. Raises NoResults for a comparison that knows none.
    """
    from evaluation.statistics.power import smallest_by_questions

    claims = [arm["claim"] for arm in comparison["arms"] if arm.get("claim") and arm["claim"]["family"]]
    if not claims:
        raise NoResults(
            "no arm has two independent repetitions and a baseline with as many, so the variances are not "
            "known; add seeds or pools, or run the recipe again if the results are of an earlier version"
        )
    components, family = mean_components([claim["components"] for claim in claims]), claims[0]["family"]
    named = zip(_NAMES, astuple(components), strict=True)
    parts = ", ".join(f"{name} {value:.2f}" for name, value in named if value is not None)
    yield f"standard deviations seen, in points (mean over {len(claims)} arms): {parts}"
    yield _designs(components, family)
    if components.pools is None:
        yield (
            "What pools add is not known from fewer than three: lines with other numbers of pools assume "
            "that they add nothing."
        )
    alone = [(share, smallest_by_questions(components, family, share=share)) for share in QUESTIONS]
    yield "any number of pools and seeds: " + ", ".join(
        f"{effect:.2f} with {share} x the questions" for share, effect in alone if effect is not None
    )


_NAMES = ("pools", "seeds of an arm", "seeds of its baseline", "questions", "answers")


def mean_components(each: Sequence[Mapping[str, float | None]]) -> "Components":
    """The root mean square of each component; None where no arm knows it."""
    from evaluation.comparison import Components

    def mean(name: str) -> float | None:
        known = [value for own in each if (value := own[name]) is not None]
        return math.sqrt(sum(value**2 for value in known) / len(known)) if known else None

    return Components(**{name: mean(name) for name in each[0]})


def _designs(components: "Components", family: int) -> "Table":
    """Pools x seeds: the smallest difference with 80 % power; a dash where nothing can be said."""
    from rich import box
    from rich.table import Table

    from evaluation.statistics.power import table

    designs = table(components, family)
    seeds = list(dict.fromkeys(design.seeds for design in designs))
    shown = Table(
        "pools",
        *(f"{n} seed{'s' if n > 1 else ''} each" for n in seeds),
        title=f"Smallest difference found with 80 % power, in points, at once for {family} differences",
        title_justify="left",
        box=box.MARKDOWN,
    )
    for pools in dict.fromkeys(design.pools for design in designs):
        own = [design.effect for design in designs if design.pools == pools]
        shown.add_row(str(pools), *("–" if effect is None else f"{effect:.2f}" for effect in own))
    return shown
