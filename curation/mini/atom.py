"""Facts to ask about a scene, the nine styles of asking, and the split of facts into pool and benchmarks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from random import Random

LETTERS = "abcd"
BRACKETS = (("<", ">"), ("[", "]"), ("{", "}"), ("*", "*"), ("#", "#"))
HELD_OUT_IN = 6  # one fact in six is held out for the benchmarks


@dataclass(frozen=True)
class Split:
    """The pool's or the benchmarks' (`held_out`) part of all facts, and the concept frequencies to draw with.

    `zipf` is the exponent of the concept frequencies (0 = uniform); the rank of a concept is the same in
    every pool.
    """

    held_out: bool = False
    zipf: float = 0.0

    def owns(self, *fact: object) -> bool:
        """Whether this combination of facts belongs to this split; pool and benchmarks share none."""
        digest = blake2b("/".join(map(str, fact)).encode(), digest_size=4).digest()
        return (int.from_bytes(digest, "big") % HELD_OUT_IN == 0) == self.held_out

    def pick(self, rng: Random, names: Sequence, count: int = 1) -> list:
        """`count` distinct names, drawn by Zipf frequency."""
        if not self.zipf:
            return rng.sample(list(names), count)
        # Ranked by a hash, so that the frequent concepts do not depend on the order of the list.
        ranked = sorted(names, key=lambda name: blake2b(str(name).encode(), digest_size=8).digest())
        weights = [(rank + 1) ** -self.zipf for rank in range(len(ranked))]
        picks: list = []
        while len(picks) < count:
            name = rng.choices(ranked, weights)[0]
            if name not in picks:
                picks.append(name)
        return picks

    def draw_owned(self, draw: Callable[[], tuple]) -> tuple:
        """Call `draw` until its result is a fact of this split; LookupError after 1,000 misses."""
        for _ in range(1000):
            fact = draw()
            if self.owns(*fact):
                return fact
        raise LookupError("no fact of this split in 1,000 draws: the maker has too few facts to split")


@dataclass(frozen=True)
class Atom:
    """A question with its answer, and the texts that the styles are built from.

    kind: how an answer is compared (see evaluation.extract). level: 1..5, how strongly the capability is
    exercised.
    also: further capabilities that are exercised. possible: number of answers that are plausible without the
        image, if `distractors` lists only some of them.
    """

    capability: str
    question: str
    answer: str
    kind: str
    distractors: tuple[str, ...]
    reason: str
    statement: str
    level: int = 3
    also: tuple[str, ...] = ()
    possible: int = 0

    @property
    def classes(self) -> int:
        """Number of answers that a guess without the image chooses from."""
        return self.possible or len({self.answer, *self.distractors})

    def corrupted(self, rng: Random) -> "Atom":
        """The same question with a wrong answer, the same wrong answer in every style."""
        wrong = rng.choice([text for text in self.distractors if text != self.answer])
        return replace(
            self,
            answer=wrong,
            statement=self.statement.replace(self.answer, wrong),
            distractors=(*self.distractors, self.answer),
        )


@dataclass(frozen=True)
class Asked:
    """An atom in one style: the texts of one turn. `options` is set for multi-choice."""

    atom: Atom
    style: str
    question: str
    answer: str
    kind: str
    options: tuple[str, ...] = ()

    @property
    def level(self) -> int:
        """Capability score 1..5 of this turn: harder styles exercise it more."""
        shift = {"yes_no": -1, "chain_of_thought": 1, "detailed_description": 1}.get(self.style, 0)
        return min(max(self.atom.level + shift, 1), 5)


def _others(atom: Atom, rng: Random, count: int) -> list[str]:
    distinct = list(dict.fromkeys(text for text in atom.distractors if text != atom.answer))
    return rng.sample(distinct, min(count, len(distinct)))


def _multi_choice(atom: Atom, rng: Random) -> Asked:
    options = [*_others(atom, rng, 2), atom.answer]
    rng.shuffle(options)
    listed = " ".join(f"( {letter} ) {text}" for letter, text in zip(LETTERS, options, strict=False))
    return Asked(
        atom,
        "multi_choice",
        f"{atom.question} {listed}",
        LETTERS[options.index(atom.answer)],
        "choice",
        tuple(options),
    )


def _yes_no(atom: Atom, rng: Random) -> Asked:
    truth = rng.random() < 0.5
    proposed = atom.answer if truth else _others(atom, rng, 1)[0]
    return Asked(atom, "yes_no", f"{atom.question} is it {proposed} ?", "yes" if truth else "no", "yes_no")


def _specified(atom: Atom, rng: Random) -> Asked:
    left, right = rng.choice(BRACKETS)
    return Asked(
        atom,
        "specified",
        f"{atom.question} reply like {left} {right} .",
        f"{left} {atom.answer} {right}",
        atom.kind,
    )


def _comparison(atom: Atom, rng: Random) -> Asked:
    other = _others(atom, rng, 1)[0]
    pair = [atom.answer, other]
    rng.shuffle(pair)
    question = f"{atom.question} compare {pair[0]} and {pair[1]} ."
    return Asked(atom, "comparison", question, f"it is {atom.answer} , not {other} .", atom.kind)


def ask(atom: Atom, style: str, rng: Random, listing: str = "") -> Asked:
    """Phrase `atom` in one of the nine styles. `listing`: the scene's description, for detailed answers."""
    if style == "multi_choice":
        return _multi_choice(atom, rng)
    if style == "yes_no":
        return _yes_no(atom, rng)
    if style == "specified":
        return _specified(atom, rng)
    if style == "comparison":
        return _comparison(atom, rng)
    if style == "chain_of_thought":
        return Asked(
            atom,
            style,
            f"{atom.question} think step by step .",
            f"{atom.reason} , so {atom.answer}",
            atom.kind,
        )
    if style == "short_description":
        return Asked(
            atom, style, f"{atom.question} answer in one sentence .", f"{atom.statement} .", atom.kind
        )
    if style == "detailed_description":
        detail = f"{atom.statement} ." if atom.kind == "facts" else f"{atom.statement} . {listing}".strip()
        return Asked(atom, style, f"{atom.question} answer in detail .", detail, atom.kind)
    return Asked(atom, style, atom.question, atom.answer, atom.kind)  # word, coordinate
