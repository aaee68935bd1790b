"""The rubric that a teacher is given (scale 0..5, capability definitions), and the label that it returns.

A score says how *useful the sample is for training* a capability. mmSSR (arXiv 2503.13383) asks a teacher for
an integer score per capability and the interaction styles of one sample together. The wording of the levels
is ours: the paper's prompt is not published.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from curation.taxonomy import CAPABILITIES, CAPABILITY_KEYS, MAX_SCORE, STYLES

LEVELS: tuple[str, ...] = (
    "absent, or the data is wrong or does not fit the image",
    "incidental: touched, but nothing would be learnt from it",
    "weak: exercised in passing",
    "clear: needed to answer, at an easy level",
    "strong: needed to answer, and the answer is right and informative",
    "strong and demanding: a hard case with a right answer",
)
"""Meaning of each score, index = score."""

FAILURES = {
    "rate_limited",
    "server_error",
    "timeout",
    "connection",
    "bad_request",
    "malformed",
    "invalid_answer",
}
"""Reasons that count against `max_failed`. Broken images and refusals by the teacher do not."""


class LabelError(ValueError):
    """A label or a labels directory that cannot be used; the message names it and says why."""


@dataclass(frozen=True)
class Label:
    """A teacher's answer for one sample.

    `scores` maps every capability to 0..5, or to None if the teacher gave no usable score (never to 0 for
    that). `styles` holds style keys of the taxonomy; empty means that the teacher named none. `missing` is
    the reason why a label is incomplete (None if it is complete); reasons are counted in labels.json.
    """

    row: int
    id: str
    scores: Mapping[str, int | None]
    styles: tuple[str, ...]
    missing: str | None = None

    def __post_init__(self) -> None:
        if tuple(self.scores) != CAPABILITY_KEYS:
            raise LabelError(
                f"sample {self.id!r}: a label needs the {len(CAPABILITY_KEYS)} capability keys in order"
            )
        for capability, score in self.scores.items():
            if score is not None and not 0 <= score <= MAX_SCORE:
                raise LabelError(
                    f"sample {self.id!r}: {capability} = {score}; it must be 0..{MAX_SCORE} or None"
                )
        unknown = [s for s in self.styles if s not in STYLES]
        if unknown:
            raise LabelError(
                f"sample {self.id!r}: unknown style {unknown[0]!r}; it must be one of {', '.join(STYLES)}"
            )


def missing_label(row: int, id: str, reason: str) -> Label:
    """The label of a sample that the teacher could not judge: every score None, no style."""
    return Label(row, id, dict.fromkeys(CAPABILITY_KEYS), (), missing=reason)


def rubric_text(backwards: bool = False) -> str:
    """The rubric as one text: the levels, the capabilities with their definitions, the style names.

    backwards: capabilities and styles in reverse order, for a second opinion.
    """
    levels = [f"{score}: {meaning}" for score, meaning in enumerate(LEVELS)]
    capabilities = [f"{c.key}: {c.phrase} ({c.definition})" for c in CAPABILITIES]
    styles = list(STYLES.values())
    if backwards:
        capabilities, styles = capabilities[::-1], styles[::-1]
    return "\n".join(["Score", *levels, "Capability", *capabilities, "Style", *styles])


def rubric_hash() -> str:
    """Twelve hex digits that change with any word of the rubric; written to labels.json."""
    return hashlib.sha256(rubric_text().encode()).hexdigest()[:12]
