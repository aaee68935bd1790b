"""Text preparation for all answer extractors: cleaning, the concluding statement, reducing sentences.

Nothing here looks at the reference answer: what a model answered is read from its words alone.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable

UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
NUMBER_WORDS: dict[str, int] = (
    {word: i for i, word in enumerate(UNITS)}
    | {word: 10 * (i + 2) for i, word in enumerate(TENS)}
    | {
        f"{ten}{sep}{one}": 10 * (i + 2) + j + 1
        for i, ten in enumerate(TENS)
        for j, one in enumerate(UNITS[1:10])
        for sep in (" ", "-")
    }
    | {"none": 0, "a dozen": 12, "hundred": 100, "a hundred": 100, "one hundred": 100}
)
_NUMBER_WORD = re.compile(
    r"\b(?:" + "|".join(sorted(map(re.escape, NUMBER_WORDS), key=len, reverse=True)) + r")\b"
)

_STRONG = re.compile(
    r"(?:final |correct |right |best |my )?(?:answer|option|choice|conclusion|result)"
    r"(?: to [a-z ]{1,40}?)?\s*(?:is|:|=|would be|must be|should be)\s*(?:that\b)?\s*:?|####"
    r"|(?:^|\n)\s*answer\b(?= )"
)
_WEAK = re.compile(r"\b(?:so|therefore|thus|hence|consequently|in conclusion|in short)\b\s*[,:]?|=>|->|→")
_ANSWER_LAST = re.compile(
    r"^(.*?)\s+(?:is|would be|must be)\s+(?:the|my)\s+(?:final |correct |right |best )?"
    r"(?:answer|option|choice)\W*$",
    re.S,
)
_REASON = re.compile(r"[,;]?\s*\b(?:because|since|as it|as there|which|given that|due to)\b.*", re.S)
_SENTENCE_END = re.compile(r"[.!?;](?=\s|$)|\n+")


def clean(text: str) -> str:
    """Lower-cased text without markdown, quotes, LaTeX and thinking blocks; runs of white space collapsed."""
    text = unicodedata.normalize("NFKC", text).lower()
    text = re.sub(r"<(think|thinking)>.*?</\1>", " ", text, flags=re.S)
    text = re.sub(r"\\(?:boxed|text|mathrm|textbf)\s*\{([^{}]*)\}", r"\1", text)
    text = text.replace("’", "'").replace("\u2018", "'").replace("−", "-")
    text = re.sub(r"\*+|__+|`+|[\"“”«»$]|</?[a-z]+>", " ", text)
    text = re.sub(r"(?<![a-z0-9])'|'(?![a-z0-9])", " ", text)
    return "\n".join(
        line for line in (re.sub(r"[^\S\n]+", " ", part).strip() for part in text.split("\n")) if line
    )


def digits(text: str) -> str:
    """Number words (zero to ninety-nine, hundred, a dozen, none) written as digits."""
    return _NUMBER_WORD.sub(lambda match: str(NUMBER_WORDS[match.group()]), text)


def conclusions(text: str) -> tuple[list[str], bool]:
    """The passages of cleaned `text` that state the answer, and whether they are announced ("the answer is",
    "so").

    All "the answer is" statements are returned, since two that differ contradict each other; of "so" and
    "thus" only the last one counts, since steps of reasoning use them too. Without an announcement the whole
    text is the only passage.
    """
    if last := _ANSWER_LAST.match(text):
        return [_after_weak(last.group(1)) or last.group(1)], True
    marks = list(_STRONG.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    passages = [text[mark.end() : end] for mark, end in zip(marks, ends, strict=False)]
    stated = [passage for passage in passages if re.search(r"\w", passage)]
    if stated:
        return stated, True
    weak = _after_weak(text)
    return ([weak], True) if weak else ([text], False)


def announced(text: str) -> str | None:
    """What follows the last "the answer is" in an answer as it was written; None without one.

    Weaker words ("so", "->") may belong to a free answer itself, and its letters keep their case.
    """
    marks = list(re.finditer(_STRONG.pattern, text, re.IGNORECASE))
    stated = text[marks[-1].end() :].strip(" \t\n*_.:\"'") if marks else ""
    return stated if re.search(r"\w", stated) else None


def without_announcements(text: str) -> str:
    """`text` with every "the answer is" replaced by a line break."""
    return _STRONG.sub("\n", text)


def _after_weak(text: str) -> str | None:
    """The text after the last "so", "therefore", ...; None if there is no such word or no word follows it."""
    tail = text[list(_WEAK.finditer(text))[-1].end() :] if _WEAK.search(text) else ""
    return tail if re.search(r"\w", tail) else None


def sentences(text: str) -> list[str]:
    """The sentences of `text` that contain a word; a decimal point does not end a sentence."""
    return [part.strip() for part in _SENTENCE_END.split(text) if re.search(r"\w", part)]


def without_reason(text: str) -> str:
    """`text` up to "because", "since", "which", ...; unchanged if it begins with one of them."""
    return _REASON.sub("", text, count=1) or text


def agree(texts: Iterable[str], extract: Callable[[str], str | None]) -> str | None:
    """The value that `extract` returns for the texts, ignoring None; None if they differ or there is none."""
    values = {value for value in map(extract, texts) if value is not None}
    return values.pop() if len(values) == 1 else None
