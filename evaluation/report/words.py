"""How numbers and verdicts are put into words: the only place where a verdict becomes text."""

import math
from collections.abc import Sequence

from evaluation.comparison import Claim, Difference, Needs
from evaluation.report.table import DASH

SMALLEST_P = 0.001
MAX_DECIMALS = 4


def points(value: float) -> str:
    """A difference in points with its sign: two decimals, and more where these would read as zero."""
    if math.isnan(value):
        return DASH
    decimals = 2
    while value and decimals < MAX_DECIMALS and abs(value) < 0.5 * 10**-decimals:
        decimals += 1
    return f"{value:+.{decimals}f}"


def corrected(difference: Difference, between: str = ", ") -> str:
    """The ends of the interval that holds for the whole family at once; a dash where it is not known."""
    if math.isnan(difference.corrected_low):
        return DASH
    return f"{points(difference.corrected_low)}{between}{points(difference.corrected_high)}"


def p_value(p: float) -> str:
    """`< 0.001`, never `0.000`."""
    if math.isnan(p):
        return DASH
    return f"< {SMALLEST_P}" if p < SMALLEST_P else f"{p:.3f}"


def counted(number: int, noun: str) -> str:
    """`1 pool`, `1,200 pools`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def margin(claim: Claim) -> str:
    """`1 point`, `0.5 points`."""
    return f"{claim.margin:g} point{'' if claim.margin == 1 else 's'}"


def verdict(claim: Claim | None) -> str:
    """The word or words of a claim for the cell of a table; a dash for an arm that is compared with none."""
    if claim is None:
        return DASH
    if claim.verdict is None:
        return "no verdict"
    return f"equivalent within {margin(claim)}" if claim.verdict == "equivalent" else claim.verdict


def design(needs: Needs | None) -> str:
    """The design that would decide: `12 pools x 2 seeds`, or why none would; a dash where nothing is said."""
    if needs is None:
        return DASH
    if needs.pools is None or needs.seeds is None:
        return needs.reason or DASH
    return f"{counted(needs.pools, 'pool')} x {counted(needs.seeds, 'seed')}"


def sided(claim: Claim) -> bool:
    """Whether the claim says which of the two is better."""
    return claim.verdict in ("beats", "loses to")


def listed(names: Sequence[str], at_most: int = 8) -> str:
    """`a, b and c`; of many names the first ones and the number of the others."""
    if len(names) > at_most + 1:
        return f"{', '.join(names[:at_most])} and {len(names) - at_most:,} more"
    return " and ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part)
