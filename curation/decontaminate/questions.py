"""Questions of a pool that are questions of benchmarks, by word n-grams.

    index = QuestionIndex(targets.questions, occasions(targets), QuestionRule())
    found = search(pool, index, QuestionRule())

The score of a question in a sample is the share of its words that lie in an n-gram which a question of the
sample holds too (Lambert et al., "Tulu 3", 2024, section 3.2: 8-grams, more than half of the words, in one
and the same sample). n follows Brown et al., "Language models are few-shot learners", 2020, appendix C: from
8 to 13, so that a shorter question is never found by its words alone (see `shared`, which needs its image
too).

An n-gram that many items or many samples hold is a template ("what is the name of the ... shown in the") and
counts for nobody.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from curation.decontaminate.join import expanded, matching
from curation.decontaminate.words import Grams, Hashes, Words, hashed_words, ngrams, whole
from curation.progress import Progress

if TYPE_CHECKING:
    from curation.pool.read import Pool
    from curation.pool.sample import Sample

Numbers = NDArray[np.int64]
_BATCH = 8192  # samples whose questions are in memory at a time
_HITS = 1 << 22  # hits above which those of templates are dropped: 64 MB


@dataclass(frozen=True)
class QuestionRule:
    """`n`: words of an n-gram. `share`: of a question's words, more than which count. Templates are n-grams
    of more than `items` items (circular copies once), or of more samples than `rows` and than `row_share` of
    the pool.
    """

    n: int = 8
    share: float = 0.5
    items: int = 1
    rows: int = 10
    row_share: float = 1e-4

    def most_rows(self, samples: int) -> int:
        return max(self.rows, int(self.row_share * samples))


class QuestionIndex:
    """The distinct questions of the items by their words: `of_item` int64[items] numbers them.

    A question without a word has number -1. `words`: number of words of each.
    """

    def __init__(self, questions: Sequence[str], occasions: Sequence[object], rule: QuestionRule) -> None:
        """occasions: what is shown with each question; the same question about the same is one occasion."""
        words = hashed_words(questions)
        hashes = whole(words)
        self.hashes, first, number = np.unique(hashes, return_index=True, return_inverse=True)
        self.of_item: Numbers = np.where(hashes == 0, -1, number)
        own = _taken(words, first)
        self.words = own.counts
        self.n = rule.n
        self._grams = ngrams(own, rule.n)
        self.starts = np.searchsorted(self._grams.text, np.arange(len(first) + 1))
        self.grams, self._number = np.unique(self._grams.hashes, return_inverse=True)
        asked = np.zeros(len(first), np.int64)
        for question, _ in {(q, o) for q, o in zip(self.of_item.tolist(), occasions, strict=True) if q >= 0}:
            asked[question] += 1
        self.is_template = _held_by(self._number, self._grams.text, asked, len(self.grams)) > rule.items

    def numbers(self, hashes: Hashes) -> Numbers:
        """The number of each n-gram in `grams`; -1 for those that no item holds."""
        if not len(self.grams):
            return np.full(len(hashes), -1)
        at = np.minimum(np.searchsorted(self.grams, hashes), len(self.grams) - 1)
        return np.where(self.grams[at] == hashes, at, -1)

    def places(self, gram: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        """(index into `gram`, question, place of the first word) of each place where an item holds it."""
        left, right = matching(gram, self._number)
        return left, self._grams.text[right], self._grams.place[right]

    def of_question(self, question: int) -> Grams:
        """The n-grams of one question, in order."""
        part = slice(int(self.starts[question]), int(self.starts[question + 1]))
        return Grams(self._grams.hashes[part], self._grams.text[part], self._grams.place[part])


class Found(NamedTuple):
    """(row, question) pairs with the share of the question's words; n-grams that are templates by reason."""

    row: Numbers
    question: Numbers
    share: NDArray[np.float64]
    templates_of_items: int
    templates_of_samples: int


def search(
    pool: "Pool", index: QuestionIndex, rule: QuestionRule, on_progress: Progress | None = None
) -> Found:
    """Questions of which a sample holds more than `rule.share` of the words, templates left out.

    The pool is read once. In memory are the hits of n-grams that are no templates so far.
    """
    most = rule.most_rows(len(pool))
    count = np.zeros(len(index.grams), np.int64)
    count[index.is_template] = most + 1
    hits: list[tuple[Numbers, Numbers]] = []
    held, room = 0, _HITS
    for _, texts in _questions(pool, None, on_progress):
        hits.append(_hits(index, texts))
        count += np.bincount(hits[-1][1], minlength=len(count))
        held += len(hits[-1][0])
        if held > room:  # forget what has turned out to be templates
            hits = [_kept(hits, count <= most)]
            held = len(hits[0][0])
            room = max(_HITS, 2 * held)
    row, gram = _kept(hits, count <= most)
    abound = int(((count > most) & ~index.is_template).sum())
    at, question, place = index.places(gram)
    row, question, share = _covered(row[at], question, place, index)
    enough = share > rule.share
    of_items = int(index.is_template.sum())
    return Found(row[enough], question[enough], share[enough], of_items, abound)


def shared(pool: "Pool", index: QuestionIndex, rows: Numbers, questions: Numbers) -> NDArray[np.float64]:
    """float64[k], for each pair of a row and a question whose images match: how much of the question is
    asked.

    1 if a turn, or a line of one, is the question word for word (the only rule for a question of fewer words
    than an n-gram has), else the share of its words as in `search`; templates count, because the image
    matches.
    """
    found = np.zeros(len(rows))
    order = np.argsort(rows, kind="stable")
    distinct, starts = np.unique(rows[order], return_index=True)
    bounds = np.append(starts, len(rows))
    at = 0
    for own, texts in _questions(pool, distinct, None):
        words = hashed_words([text for _, text in texts])
        lines = hashed_words([line for _, text in texts for line in text.splitlines()])
        line_rows = np.array([row for row, text in texts for _ in text.splitlines()], np.int64)
        text_rows = np.array([row for row, _ in texts], np.int64)
        wholes, line_wholes, grams = whole(words), whole(lines), ngrams(words, index.n)
        gram_rows = text_rows[grams.text]
        for row in own:
            said = {*wholes[_of(text_rows, row)].tolist(), *line_wholes[_of(line_rows, row)].tolist()}
            held = grams.hashes[_of(gram_rows, row)]
            for pair in order[bounds[at] : bounds[at + 1]]:
                found[pair] = _share(index, int(questions[pair]), said, held)
            at += 1
    return found


def _share(index: QuestionIndex, question: int, said: set[int], held: Hashes) -> float:
    if question < 0:
        return 0.0
    if int(index.hashes[question]) in said:
        return 1.0
    own = index.of_question(question)
    place = own.place[np.isin(own.hashes, held)]
    return float(_reach(place, index.n) / index.words[question]) if len(place) else 0.0


def _of(rows: Numbers, row: int) -> slice:
    """The places of a row in an ascending column."""
    return slice(int(np.searchsorted(rows, row)), int(np.searchsorted(rows, row, side="right")))


def _questions(
    pool: "Pool", rows: Numbers | None, on_progress: Progress | None
) -> Iterator[tuple[Sequence[int], list[tuple[int, str]]]]:
    """(rows, (row, question) of every turn) of some samples at a time, rows ascending."""
    total = len(pool) if rows is None else len(rows)
    samples = pool.samples(None if rows is None else rows.tolist())
    done = 0
    for batch in _batches(samples):
        yield [s.row for s in batch], [(s.row, turn.question) for s in batch for turn in s.turns]
        done += len(batch)
        if on_progress:
            on_progress(done, total)


def _batches(samples: Iterable["Sample"]) -> Iterator[list["Sample"]]:
    samples = iter(samples)
    while batch := list(islice(samples, _BATCH)):
        yield batch


def _hits(index: QuestionIndex, texts: list[tuple[int, str]]) -> tuple[Numbers, Numbers]:
    """(row, n-gram) once for each n-gram of the items that a row holds."""
    grams = ngrams(hashed_words([text for _, text in texts]), index.n)
    number = index.numbers(grams.hashes)
    hit = number >= 0
    row = np.array([row for row, _ in texts], np.int64)[grams.text[hit]]
    pairs = np.unique(np.stack([row, number[hit]], axis=1), axis=0)
    return pairs[:, 0], pairs[:, 1]


def _kept(hits: list[tuple[Numbers, Numbers]], kept: NDArray[np.bool_]) -> tuple[Numbers, Numbers]:
    """All hits of the n-grams to keep, in one."""
    parts = [(row[kept[gram]], gram[kept[gram]]) for row, gram in hits]
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.concatenate([row for row, _ in parts]), np.concatenate([gram for _, gram in parts])


def _covered(
    row: Numbers, question: Numbers, place: Numbers, index: QuestionIndex
) -> tuple[Numbers, Numbers, NDArray[np.float64]]:
    """(row, question, share of its words in the n-grams at `place`), each pair once."""
    order = np.lexsort((place, question, row))
    row, question, place = row[order], question[order], place[order]
    if not len(row):
        return row, question, np.zeros(0)
    new = np.concatenate([[True], (row[1:] != row[:-1]) | (question[1:] != question[:-1])])
    step = np.append(place[1:] - place[:-1], index.n)
    step[np.append(new[1:], True)] = index.n
    words = np.add.reduceat(np.minimum(step, index.n), np.flatnonzero(new))
    return row[new], question[new], words / index.words[question[new]]


def _reach(place: Numbers, n: int) -> int:
    """Number of words in the n-grams at these ascending places."""
    return int(np.minimum(np.diff(place), n).sum()) + n


def _held_by(gram: Numbers, question: Numbers, asked: Numbers, grams: int) -> Numbers:
    """By how many occasions each n-gram is held: the sum over the questions that hold it."""
    pairs = np.unique(np.stack([gram, question], axis=1), axis=0)
    return np.bincount(pairs[:, 0], weights=asked[pairs[:, 1]], minlength=grams).astype(np.int64)


def _taken(words: Words, texts: Numbers) -> Words:
    """The words of some of the texts."""
    counts = words.counts[texts]
    return Words(words.hashes[expanded(words.ends[texts], counts)], np.append(0, np.cumsum(counts)))
