"""The arms as figures show them: labels, order, which are controls, series over budgets, shares by name."""

import re
from collections.abc import Mapping, Sequence
from statistics import fmean

from evaluation.comparison import ArmResult, Comparison
from evaluation.context import Context
from evaluation.figures import style

BUDGET = re.compile(r"[_\-. ]*\d+(\.\d+)?(%|pct|percent|k)?$")
"""A budget at the end of an arm's name, as in random_10 and mmssr_30pct."""


def label(arm: ArmResult, inches: float, size: float = style.SIZE, end: str = "") -> str:
    """The arm's name and `end`, in at most so many inches; marked if its selector saw validation data."""
    end += " (targeted)" if arm.targeted else ""
    return style.shorten(arm.arm, inches - style.text_width(end, size), size) + end


def is_control(comparison: Comparison, arm: ArmResult) -> bool:
    """Whether the arm is there to compare others with: declared as such, a baseline, or an anchor."""
    return bool(arm.control) or arm.arm in comparison.baselines or is_anchor(comparison, arm)


def is_anchor(comparison: Comparison, arm: ArmResult) -> bool:
    """Whether the arm is a level that nothing is claimed about, as the reference arm is."""
    return arm.anchor or arm.arm == comparison.reference_arm


def compared(comparison: Comparison) -> list[ArmResult]:
    """The arms that have a difference to a baseline, without the anchors."""
    return [
        arm for arm in comparison.arms if arm.baseline and arm.difference and not is_anchor(comparison, arm)
    ]


def series_name(arm: ArmResult) -> str:
    """What the arms of one method at several budgets share: the name without a budget at its end."""
    return BUDGET.sub("", arm.arm) or arm.arm


def samples(context: Context) -> dict[str, float]:
    """Arm -> size of its subset, mean over selections."""
    sizes: dict[str, list[int]] = {}
    for subset in context.subsets:
        sizes.setdefault(subset.arm, []).append(subset.samples)
    return {arm: fmean(own) for arm, own in sizes.items()}


def mean_mix(mixes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of shares by name; a name that a mix lacks has the share 0 there."""
    names = dict.fromkeys(name for mix in mixes for name in mix)
    return {name: sum(mix.get(name, 0.0) for mix in mixes) / len(mixes) for name in names}
