"""The word that a difference allows: from its corrected interval, never from its mean.

beats: the interval is above 0. loses to: below 0. equivalent: two one-sided tests at the corrected level
(Schuirmann 1987) keep it within the margin. undecided: none of these, with the design that would decide.
"""

import math

from evaluation.comparison import Claim, Scope, Verdict
from evaluation.statistics.crossed import Tested
from evaluation.statistics.power import needs

MARGIN = 1.0


def claim(tested: Tested, *, margin: float = MARGIN, level: float = 0.95) -> Claim:
    """What may be said; verdict None, with a reason, where an error is not known or nothing is claimed."""
    verdict, reason = _verdict(tested, margin)
    design = None
    if verdict == "undecided":
        design = needs(
            tested.components,
            tested.pair.pools,
            tested.pair.repetitions,
            margin=margin,
            family=tested.family,
            level=level,
        )
    scope = scope_of(tested.pair.pools)
    return Claim(verdict, margin, scope, tested.family, reason, design, tested.components)


def scope_of(pools: int) -> Scope:
    """What a difference over this many pools speaks about."""
    return "on this pool" if pools < 2 else "on these pools" if pools == 2 else "over pools"


def _verdict(tested: Tested, margin: float) -> tuple[Verdict | None, str]:
    difference = tested.difference
    if math.isnan(difference.stderr):
        what = "on each of two pools: add repetitions, or a third pool" if tested.pair.pools == 2 else "only"
        return None, f"one repetition of the arm or of its baseline {what}"
    if not tested.family:
        return None, "shown for scale, not tested"
    inside = -margin <= tested.inside[0] and tested.inside[1] <= margin
    within = f"by less than {margin:g} points" if inside else ""
    if difference.corrected_low > 0:
        return "beats", within
    if difference.corrected_high < 0:
        return "loses to", within
    return ("equivalent", "") if inside else ("undecided", "")
