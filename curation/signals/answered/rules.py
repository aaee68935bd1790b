"""The score of a generated answer beside the reference, from 0 to 1, by the form of the reference.

- an option's letter ("B", "(b)", "B."): 1 if the answer begins with that letter, which is no word in
  it ("a dog", "I see"), else 0
- a number: 1 within 5 % of it, the relaxed accuracy of ChartQA (arXiv 2203.10244), else 0
- any other text: F1 of the bags of words, as for SQuAD (arXiv 1606.05250)
"""

import re
import string
from collections import Counter

TOLERANCE = 0.05
_LETTER = re.compile(r"\(?([A-Za-z])\)?[.:]?")
_LEADING_LETTER = re.compile(
    r"\s*(?:answer\s*[:is]*\s*)?\(?(?!(?-i:a|I)\s+\w)([A-Za-z])(?:\)|[.:]|\s|$)", re.IGNORECASE
)
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?%?")
_ARTICLES = {"a", "an", "the"}
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def score(reference: str, answer: str) -> float:
    """How well `answer` agrees with `reference`, from 0 to 1."""
    wanted = reference.strip()
    if letter := _LETTER.fullmatch(wanted):
        given = _LEADING_LETTER.match(answer)
        return float(bool(given) and given[1].upper() == letter[1].upper())
    number = _number(wanted)
    if number is not None:
        other = _number(answer.strip().removesuffix("."))
        return float(other is not None and abs(other - number) <= TOLERANCE * abs(number))
    return word_f1(reference, answer)


def word_f1(reference: str, answer: str) -> float:
    """Harmonic mean of precision and recall of the words; 1 if neither text has any."""
    wanted, given = Counter(_words(reference)), Counter(_words(answer))
    if not wanted or not given:
        return float(wanted == given)
    return 2 * (wanted & given).total() / (wanted.total() + given.total())


def _words(text: str) -> list[str]:
    """Lower-case words without punctuation and articles; a text of articles alone keeps them."""
    words = text.lower().translate(_PUNCTUATION).split()
    return [word for word in words if word not in _ARTICLES] or words


def _number(text: str) -> float | None:
    if not _NUMBER.fullmatch(text) or not any(character.isdigit() for character in text):
        return None
    return float(text.replace(",", "").removesuffix("%"))
