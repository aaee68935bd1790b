"""Formats of questions, and choice questions with moved options and other letters (ARDS, NeurIPS 2025).

The released code tells formats apart by the prompts of LLaVA-1.5's mixture and permutes options on lines such
as "A. text". Here options may also stand in brackets or within a line, as "(A) text" or "( a ) text".
"""

import re
from dataclasses import replace
from typing import NamedTuple

from curation.pool.sample import Sample, Turn

PROMPTS = {
    "phrase": "answer the question using a single word or phrase.",
    "choice": "answer with the option's letter from the given choices directly.",
    "caption": "provide a one-sentence caption for the provided image",
    "region": "provide a short description for this region",
    "box": "provide the bounding box coordinate of the region this sentence describes",
}
"""Format -> the prompt that marks it, in small letters (arXiv 2310.03744, table 7)."""
FORMATS = (*PROMPTS, "image", "text")
"""All formats: those of the prompts, other questions about an image, other text."""
ORIGINAL, RENAMED = "ABCDEFG", "QWERTYU"
"""Letters of options, and those that take their place (released code)."""
_LINES = re.compile(r"^[ \t]*\(?([A-G])[.):][ \t]*(\S[^\n]*?)[ \t]*$", re.MULTILINE)
_INLINE = re.compile(r"\(\s?([A-Ga-g])\s?\)\s*(\S.*?)\s*(?=\(\s?[A-Ga-g]\s?\)|$)", re.MULTILINE)
_ANSWER = re.compile(r"^\s*\(?\s?([A-Ga-g])\s?\)?[.:]?\s*$")


class Options(NamedTuple):
    """The options of a question: where each one's letter and text stand in it, and the texts."""

    letters: list[tuple[int, int]]
    places: list[tuple[int, int]]
    texts: list[str]


def options_of(question: str) -> Options | None:
    """The options A, B, ... (or a, b, ...) of a question, in order; None without at least two of them."""
    for pattern in (_LINES, _INLINE):
        found = list(pattern.finditer(question))
        letters = "".join(match[1] for match in found)
        if len(found) >= 2 and letters in (ORIGINAL[: len(found)], ORIGINAL[: len(found)].lower()):
            return Options(
                [match.span(1) for match in found],
                [match.span(2) for match in found],
                [match[2] for match in found],
            )
    return None


def permuted_turn(turn: Turn, letters: str = RENAMED) -> Turn | None:
    """The turn with every option's text moved on by one place, under other letters; None for no choice.

    The answer names the same text as before, by its new letter. None also for an answer that is no letter of
    an option. letters: those in the place of A to G; small ones stay small.
    """
    options, answer = options_of(turn.question), _ANSWER.match(turn.answer)
    if options is None or answer is None:
        return None
    count = len(options.texts)
    chosen = ORIGINAL.index(answer[1].upper())
    if chosen >= count:
        return None
    small = turn.question[options.letters[0][0]].islower()
    names = letters.lower() if small else letters
    moved = [options.texts[(place - 1) % count] for place in range(count)]
    pieces = [*zip(options.letters, names, strict=False), *zip(options.places, moved, strict=True)]
    question = turn.question
    for (start, end), text in sorted(pieces, reverse=True):
        question = question[:start] + text + question[end:]
    new = letters[(chosen + 1) % count]
    start, end = answer.span(1)
    named = new.lower() if answer[1].islower() else new
    return Turn(question, turn.answer[:start] + named + turn.answer[end:])


def permuted(sample: Sample, letters: str = RENAMED) -> Sample | None:
    """The sample with its choice questions permuted; None if it has none."""
    turns = [permuted_turn(turn, letters) for turn in sample.turns]
    if not any(turns):
        return None
    kept = tuple(new or turn for new, turn in zip(turns, sample.turns, strict=True))
    return replace(sample, turns=kept)


def format_of(sample: Sample) -> str:
    """One of FORMATS, by the first question; one with options and a letter as answer is a "choice" too."""
    question = sample.turns[0].question.lower()
    for name, prompt in PROMPTS.items():
        if prompt in question:
            return name
    if permuted_turn(sample.turns[0]):
        return "choice"
    return "image" if sample.images else "text"
