"""Sentences about the controls of a comparison: which were not needed, whose samples have other lengths."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evaluation.context import Subset

LENGTHS_DIFFER = 0.05
"""Relative difference of mean lengths from which a token-matched control is needed (arXiv 2503.01807 and
2410.09335 find that random samples of equal count and other lengths are no fair baseline)."""


def in_words(settled: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """A sentence for each control that selections have decided about (`recipes.controls.decided`)."""
    for name, decision in settled.items():
        verdict = "needed" if decision["needed"] else "not needed, and not trained"
        yield f"Control {name}: {verdict}; {decision['reason']}."


def lengths(runs: Sequence[Mapping[str, Any]], subsets: Sequence["Subset"]) -> Iterator[str]:
    """A sentence with the mean tokens of a sample of each arm, and which of them differ from random's.

    runs: config of stage `compare`. Nothing where no arm is random or tokens are unknown.
    """
    roles = {run["arm"]: run["control"] for run in runs}
    matched = {run["control_of"]: run["arm"] for run in runs if run["control"] == "tokens"}
    tokens: dict[str, list[float]] = {}
    for subset in subsets:
        if subset.text_tokens is None or subset.image_tokens is None:
            return
        length = (subset.text_tokens + subset.image_tokens) / subset.samples
        tokens.setdefault(subset.arm, []).append(length)
    random = [length for arm, own in tokens.items() if roles[arm] == "random" for length in own]
    if not random:
        return
    usual, parts = fmean(random), []
    for arm, own in tokens.items():
        if roles[arm] is None:
            ratio = fmean(own) / usual
            parts.append(f"{arm} {fmean(own):.1f} ({ratio:.2f}{_control(ratio, matched.get(arm))})")
    if parts:
        yield f"Mean tokens of a sample, text and image, and their ratio to random's {usual:.1f}: " + (
            ", ".join(parts) + "."
        )


def _control(ratio: float, matched: str | None) -> str:
    if abs(ratio - 1) <= LENGTHS_DIFFER:
        return ""
    return f"; token-matched: {matched}" if matched else "; no token-matched control was run"
