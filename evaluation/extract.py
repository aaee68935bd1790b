"""From a model's answer to a score, with one extractor per kind of question.

    score("choice", "The answer is (B).", "b", ["cat", "dog"])      # Scored("b", 1.0)

The extractors do not depend on the style of an answer (sentence, letter, option text, chain of thought,
markdown), so that training data which changes only the style of a model does not change its score. An
ambiguous, contradictory or missing answer is `unparsed`: its score is 0 and it is counted, never guessed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from evaluation.answer_text import (
    agree,
    clean,
    conclusions,
    digits,
    sentences,
    without_announcements,
    without_reason,
)

_NEGATED = re.compile(r"\b(?:not|neither|nor|never|unsure|unknown|cannot)\b|n't\b")
_HEDGE = re.compile(
    r"^(?:i (?:think|believe|guess|would say)|probably|maybe|likely|yes|sure|ok(?:ay)?)\b[,.!:]?\s*"
)
_COPULA = re.compile(
    r"^.*(?:\b(?:is|are|was|were|be|shows?|see|says?|reads?|spells?|contains?|depicts?|displays?|called|named)\b"
    r"|\b[a-z]{2,}'s\b|\blooks like\b)[\s:]*",
    re.S,
)
_ARTICLE = re.compile(r"^(?:an?|the|this|that|its|his|her|their|some|one)\s+(?=\w)")
_PLACE = re.compile(
    r"\s+(?:in|on|at|near|under|above|below|beside|behind|inside|with|next to|to the|from)\s.*$", re.S
)
_COMPARED = re.compile(
    r"^(?:the )?(?:more|less|fewer|most|least|fewest|farther|further|farthest|furthest"
    r"|(?:bigg|small|larg|tall|short|long|high|low|heavi|light|bright|dark|clos|near|great|old|young|fast|slow|wid|narrow|thick|thinn)e(?:r|st))\b"
)
_SUBJECT = re.compile(
    r"^(.*?)(?:\s+(?:one|side|image|picture|half|object))?\s+(?:is|are|has|have|shows?|contains?)\s+(.*)$",
    re.S,
)


@dataclass(frozen=True)
class Scored:
    """The answer that was extracted (None: unparsed) and its score in 0..1."""

    extracted: str | None
    value: float

    @property
    def unparsed(self) -> bool:
        return self.extracted is None


def score(kind: str, prediction: str, answer: str, options: Sequence[str] = ()) -> Scored:
    """Score one answer. Kinds: choice (needs options), word, number, yes_no, coordinate, spell, facts (F1).

    Raises ValueError for an unknown kind, or for a reference answer that its own extractor cannot parse:
    broken benchmark data.
    """
    reference = extract(kind, answer, options)
    if reference is None:
        raise ValueError(
            f"reference answer {answer!r} cannot be parsed as {kind!r} (options {list(options)})"
        )
    predicted = extract(kind, prediction, options)
    if predicted is None:
        return Scored(None, 0.0)
    if kind == "facts":
        return Scored(predicted, facts_f1(predicted, reference))
    # "a dog on the left" is right if "dog" is; a reference like "on the left" has been compared as a whole.
    if kind == "word" and normalise(_PLACE.sub("", predicted)) == reference:
        return Scored(reference, 1.0)
    return Scored(predicted, float(predicted == reference))


def extract(kind: str, text: str, options: Sequence[str] = ()) -> str | None:
    """The canonical answer of `kind` in `text`; None if there is none or more than one."""
    return _extract(kind, text, tuple(options))


@lru_cache(maxsize=1 << 16)
def _extract(kind: str, text: str, options: tuple[str, ...]) -> str | None:
    text = clean(text)
    if not re.search(r"\w", text):
        return None
    if kind == "choice":
        return extract_choice(text, options)
    if kind not in EXTRACTORS:
        raise ValueError(
            f"the kind of a question must be one of choice, {', '.join(EXTRACTORS)}, got {kind!r}"
        )
    return EXTRACTORS[kind](text)


def normalise(text: str) -> str:
    """The words of `text` without a leading article; hyphens become spaces, number words digits."""
    text = re.sub(r"[^\w\s.]|\.(?!\d)|_", " ", digits(text))
    return re.sub(r"\s+", " ", _ARTICLE.sub("", re.sub(r"\s+", " ", text).strip())).strip()


# --- one of several options ----------------------------------------------------------------------


def extract_choice(text: str, options: Sequence[str]) -> str | None:
    """Letter "a", "b", ... of the only option that is named, by its letter, by its text or by both."""
    if not options:
        raise ValueError("a choice question needs its options")
    names = [normalise(clean(option)) for option in options]
    passages, _ = conclusions(text)
    return agree(passages, lambda passage: _one_choice(without_reason(passage), names))


def _one_choice(text: str, names: Sequence[str]) -> str | None:
    whole = normalise(text)
    if (
        re.fullmatch(r"[\w\s'-]+\W?", text)
        and whole in names
        and whole not in [_letter(i) for i in range(len(names))]
    ):
        return _letter(names.index(whole))
    if _NEGATED.search(text) and not any(_NEGATED.search(name) for name in names):
        return None
    named = _letters(text, len(names)) | {_letter(i) for i in _texts(normalise(text), names)}
    return named.pop() if len(named) == 1 else None


def _letter(index: int) -> str:
    return "abcdefghijklmnopqrstuvwxyz"[index]


def _letters(text: str, n: int) -> set[str]:
    """The letters used as labels. A bare "a" before a word is an article, "i" before a word is a pronoun."""
    last = _letter(n - 1)
    label = (
        rf"(?:\(\s*([a-{last}])\s*\)|(?<![\w'(-])([a-{last}])\s*[):]|\b(?:option|choice|letter)\s*\(?([a-{last}])\b"
        rf"|(?:^|(?<=[\n:,]))\s*([a-{last}])\s*[.,](?!\w)|(?<![\w'-])([a-{last}])\s*[.!?,]*\s*$"
        rf"|\b([a-{last}])(?=\s*(?:and|or|/|&)\s*[a-{last}]\b))"
    )
    labels = {next(filter(None, match.groups())) for match in re.finditer(label, text)}
    bare = re.findall(rf"(?<![\w'-])([a-{last}])(?![\w'-])", text)
    return labels | {letter for letter in bare if letter not in "ai"}


def _texts(text: str, names: Sequence[str]) -> set[int]:
    """Indices of the options whose text occurs in `text`, unless within an occurrence of a longer option."""
    spans = [
        (m.start(), m.end(), i)
        for i, name in enumerate(names)
        if len(name) > 1 or name.isdigit()
        for m in re.finditer(rf"(?<!\w){re.escape(name)}(?!\w)", text)
    ]
    return {i for a, b, i in spans if not any(c <= a and b <= d and d - c > b - a for c, d, _ in spans)}


# --- open answers --------------------------------------------------------------------------------


def extract_word(text: str) -> str | None:
    """A word or short phrase: "dog", "Dog.", "It is a dog.", "left has 3 and right has 1 so left"."""
    passages, announced = conclusions(text)
    parts = [s for passage in passages for s in (sentences(passage)[:1] if announced else sentences(passage))]
    return agree(parts, _phrase)


def _phrase(sentence: str) -> str | None:
    text = _HEDGE.sub("", without_reason(sentence))
    if _NEGATED.search(text) or re.search(r"\bor\b|\w\s*/\s*\w", text):
        return None
    subject = _SUBJECT.match(text)
    if subject and _COMPARED.match(subject.group(2)):
        return normalise(subject.group(1)) or None
    return normalise(re.sub(r"^(?:on|in|at|to)\s+(?=\w)", "", _COPULA.sub("", text))) or None


def extract_number(text: str) -> str | None:
    """One number as digits ("three" -> "3", "1,000" -> "1000", "4.0" -> "4"); after "=", the result only."""
    passages, _ = conclusions(text)
    return agree(passages, _one_number)


def _one_number(text: str) -> str | None:
    text = re.sub(r"\bthere (?:is|are) no\b", "zero", without_reason(text))
    text = re.sub(r"\b(?:minus|negative)\s+(?=\w)", "-", text)
    if _NEGATED.search(text):
        return None
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", digits(text))
    text = text.rpartition("=")[2] if re.search(r"=\s*-?\d", text) else text
    numbers = {_plain(number) for number in re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\d]|[a-z]\d)", text)}
    return numbers.pop() if len(numbers) == 1 else None


def _plain(number: str) -> str:
    value = float(number)
    return str(int(value)) if value.is_integer() else repr(value)


_YES = re.compile(r"\b(?:yes|yeah|yep|true|correct|affirmative)\b")
_NO = re.compile(r"(?:^|(?<=[,.;:!?\n]))\s*no\b|\bno\s*(?=[,.;:!?\n]|$)|\b(?:nope|false|incorrect)\b")
_STATED = re.compile(
    r"^(?:there|it|they|that|this|these|those)\b.*"
    r"(?:\b(?:is|are|does|do|has|have|can)(?:n't)?\b|'s\b|'re\b)"
)


def extract_yes_no(text: str) -> str | None:
    """yes or no, given directly ("Yes, ...") or by a full statement ("There is no dog.")."""
    passages, announced = conclusions(text)
    return agree(passages, lambda passage: _polarity(passage, announced))


def _polarity(text: str, announced: bool) -> str | None:
    text = without_reason(text)
    yes, no = bool(_YES.search(text)), bool(_NO.search(text))
    if (yes and no) or re.search(
        r"\b(?:maybe|perhaps|not sure|unsure|cannot|can't|don't know|not (?:yes|true|correct))\b", text
    ):
        return None
    if yes or no:
        return "yes" if yes else "no"
    if announced or not _STATED.match(text):
        return None
    return "no" if _NEGATED.search(text) or re.search(r"\bno\b", text) else "yes"


def extract_coordinate(text: str) -> str | None:
    """A grid cell as column letter + row digit, from "b3", "(B, 3)", "row 3, column 2", "3b", ..."""
    passages, _ = conclusions(text)
    return agree(passages, lambda passage: _one_cell(without_reason(passage)))


def _one_cell(text: str) -> str | None:
    if _NEGATED.search(text):
        return None
    cells = {cell for _, _, cell in _cells(text)}
    return cells.pop() if len(cells) == 1 else None


_CELL = re.compile(
    r"(?<!\w)(?:column\s*([a-h1-9])\s*,?\s*(?:and|of|in|at)?\s*row\s*([1-9])|row\s*([1-9])\s*,?\s*(?:and|of|in|at)?\s*"
    r"column\s*([a-h1-9])|\(?([a-h])\s*[,-]?\s*([1-9])\)?|([1-9])([a-h]))(?!\w)"
)


def _cells(text: str) -> list[tuple[int, int, str]]:
    """(start, end, cell) of every grid cell named in `text`."""
    cells = []
    for match in _CELL.finditer(digits(text)):
        column, row, row2, column2, letter, digit, digit2, letter2 = match.groups()
        column, row = column or column2 or letter or letter2, row or row2 or digit or digit2
        column = "abcdefghi"[int(column) - 1] if column.isdigit() else column
        cells.append((match.start(), match.end(), column + row))
    return cells


def extract_spell(text: str) -> str | None:
    """Letters (or digits) without separators: "c a t", "C-A-T", "cat", "It says 'cat'." -> "cat"."""
    passages, announced = conclusions(text)
    parts = [s for passage in passages for s in (sentences(passage)[:1] if announced else sentences(passage))]
    spelled = [_letter_runs(part) for part in parts]
    runs = {run for runs_of_part in spelled for run in runs_of_part}
    if runs:
        return runs.pop() if len(runs) == 1 else None
    return agree(parts, lambda part: _single_word(_COPULA.sub("", without_reason(part))))


def _letter_runs(text: str) -> list[str]:
    """Runs of at least two single characters with a separator between them."""
    return [
        re.sub(r"[^a-z0-9]", "", run)
        for run in re.findall(r"(?<![\w'])[a-z0-9](?:\s*[-,.]\s*[a-z0-9]|\s[a-z0-9])+(?![\w'])", text)
    ]


def _single_word(text: str) -> str | None:
    text = re.sub(r"^(?:the |a )?(?:words?|letters?|text)\s+", "", text.strip())
    words = re.findall(r"[a-z0-9]+", _ARTICLE.sub("", text))
    return words[0] if len(words) == 1 and not _NEGATED.search(text) else None


# --- lists of facts ------------------------------------------------------------------------------

_FILLER = re.compile(
    r"\b(?:there|is|are|an?|the|in|at|on|cell|contains?|has|shows?|of|and|i|see|we|image|picture|with|position"
    r"|located)\b|[^\w\s]"
)


def extract_facts(text: str) -> str | None:
    """Facts "cell object" sorted by cell, joined by " ; ", from "a1 dog ; b2 cat", "a dog at a1", ..."""
    text = digits(without_announcements(text))
    facts: set[tuple[str, str]] = set()
    for part in re.split(r"[;\n]|\.(?=\s|$)|,(?=\D*(?<![a-z])[a-h]\s?[1-9])|\band\b", text):
        facts |= _facts_of(part)
    return " ; ".join(f"{cell} {thing}" for cell, thing in sorted(facts)) or None


def _facts_of(part: str) -> set[tuple[str, str]]:
    """The (cell, object) facts of one clause: cells precede their objects ("a1 dog b2 cat") or follow them
    ("dog at a1")."""
    cells = _cells(part)
    if not cells or _NEGATED.search(part) or re.search(r"\bno\b", part):
        return set()
    before = _thing(part[: cells[0][0]])
    starts = [0] + [end for _, end, _ in cells]
    ends = [start for start, _, _ in cells] + [len(part)]
    gaps = [_thing(part[a:b]) for a, b in zip(starts, ends, strict=True)]
    things = gaps[:-1] if before else gaps[1:]
    return {(cell, thing) for (_, _, cell), thing in zip(cells, things, strict=True) if thing}


def _thing(text: str) -> str:
    return normalise(_FILLER.sub(" ", text))


def facts_f1(predicted: str, reference: str) -> float:
    """F1 of two fact lists in canonical form.

    A cell with more predicted objects than it has gets no hit, so that listing every object does not pay.
    """
    given, true = (_by_cell(text) for text in (predicted, reference))
    n_given, n_true = (sum(map(len, facts.values())) for facts in (given, true))
    hits = sum(
        len(things & true.get(cell, set()))
        for cell, things in given.items()
        if len(things) <= len(true.get(cell, set()))
    )
    return 2 * hits / (n_given + n_true)


def _by_cell(facts: str) -> dict[str, set[str]]:
    cells: dict[str, set[str]] = {}
    for fact in facts.split(" ; "):
        cell, _, thing = fact.partition(" ")
        cells.setdefault(cell, set()).add(thing)
    return cells


EXTRACTORS = {
    "word": extract_word,
    "number": extract_number,
    "yes_no": extract_yes_no,
    "coordinate": extract_coordinate,
    "spell": extract_spell,
    "facts": extract_facts,
}
