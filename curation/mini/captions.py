"""The base model's training data: dense captions with positions, look-ups and copying.

It holds no question of the pool and no benchmark format. One example is one picture (or none) with several
short prompts in a tag language:

    grid -> "a1 dog b4 red circle c2 k"      b4 -> "red circle"      dog -> "a1"      row 2 -> "s t e m"
    find -> "k c2 dog a1 red circle b4"      dog = wug , cat = dax ; b4 -> "wug"
    bars -> "a red 3 b blue 5"               dog = wug , cat = dax ; list -> "cat dax dog wug"
    copy x y z -> "x y z"

Prompts with several answers (`find`, `list`, long copies) are needed for look-up by content to emerge at all:
each gives several look-ups to learn from, where a single question gives one. Words of the pool's questions
occur in random order only. Fine-grained names, activities, effects, the countries of flags and sums never
occur with a picture: instruction data has to teach them.
"""

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from string import ascii_lowercase
from typing import Any

import numpy as np

from curation.mini import art
from curation.mini.atom import Split
from curation.mini.makers import MAKERS, NONSENSE, WORDS, printed_word
from curation.mini.scene import CELLS, GRID, Scene, Thing, block, draw, free_cells
from curation.mini.vocabulary import whole_words
from curation.pool.sample import IMAGE_PLACEHOLDER, Sample, Turn

ALPHABET = tuple(ascii_lowercase)
READ_WORDS = tuple(word for word in WORDS if Split().owns(word))  # the base sees no benchmark word either
KEYS = (*ALPHABET, *"123456789", *NONSENSE)
TURNS = 4


def _thing(rng: Random, cell: tuple[int, int], kind: str) -> Thing:
    color = rng.choice(list(art.COLORS))
    dark = rng.choice([c for c in art.COLORS if c not in ("white", "yellow")])
    if kind == "object":
        return Thing(kind, rng.choice(art.names().objects), cell, variant=rng.randrange(art.ART_STYLES))
    if kind == "shape":
        return Thing(kind, rng.choice(art.SHAPES), cell, color=color)
    if kind == "letter":
        return Thing(kind, rng.choice(ALPHABET), cell, color=dark, variant=rng.randrange(art.FONT_COUNT))
    value = rng.randrange(10)
    instance = rng.choice([i for i, d in enumerate(art.names().digits) if d == value and i % 5])
    return Thing("digit", str(value), cell, color=dark, variant=instance)


def _big(rng: Random) -> list[Thing]:
    """One thing over 2 x 2 cells: an object with a name, or a thing that captions only call by its group."""
    cell = (rng.randrange(GRID - 1), rng.randrange(GRID - 1))
    style = rng.randrange(art.ART_STYLES)
    kind = rng.random()
    if kind < 0.5:
        return [Thing("object", rng.choice(art.names().objects), cell, 2, variant=style)]
    if kind < 0.7:
        fine = [name for group in art.names().fine.values() for name in group]
        return [Thing("object", rng.choice(fine), cell, 2, variant=style)]
    if kind < 0.85:
        return [Thing("object", rng.choice(art.names().activity), cell, 2, variant=style)]
    return [Thing("flag", "flag", cell, 2, variant=rng.randrange(len(art.names().countries)))]


def _repeated(rng: Random, things: list[Thing], taken: set[tuple[int, int]]) -> list[Thing]:
    """The things, some of the one-cell ones replaced by copies of another one."""
    small = [t for t in things if t.span == 1 and t.cell not in taken]
    if len(small) < 2:
        return things
    model, *copies = rng.sample(small, rng.randint(2, len(small)))
    cells = {t.cell for t in copies}
    return [replace(model, cell=t.cell) if t.cell in cells else t for t in things]


def grid_scene(rng: Random, jitter: int, most: int) -> Scene:
    """A picture of mixed things in up to `most` cells."""
    things: list[Thing] = []
    start = rng.random()
    if start < 0.25:
        things = _big(rng)
    elif start < 0.5:
        things = printed_word(rng, rng.choice(READ_WORDS))
    taken = {c for t in things for c in (block(t.cell) if t.span == 2 else {t.cell})}
    count = rng.randint(0 if things else 1, max(1, min(most - len(things), len(CELLS) - len(taken))))
    kinds = rng.choices(("object", "shape", "letter", "digit"), (5, 1.5, 1.5, 1.5), k=count)
    things += [
        _thing(rng, cell, kind) for cell, kind in zip(free_cells(rng, count, taken), kinds, strict=True)
    ]
    if rng.random() < 0.25:
        things = _repeated(rng, things, taken)
    photo = rng.choice(art.names().photos) if rng.random() < 0.15 else None
    return Scene(things, photo, jitter=min(jitter, 1) if any(t.kind == "letter" for t in things) else jitter)


def _lookups(scene: Scene, rng: Random, count: int) -> list[Turn]:
    """Look-ups of cells, things and rows of a captioned picture, and of all its things in random order."""
    turns = []
    listing = scene.listing()
    for _ in range(count):
        thing = rng.choice(listing)
        same = [t for t in listing if t.words == thing.words]
        row = [t for t in listing if t.cell[1] == thing.cell[1]]
        mixed = rng.sample(listing, len(listing))
        turns.append(
            rng.choice(
                [
                    Turn(thing.where, thing.words),
                    Turn(thing.words, " ".join(t.where for t in same)),
                    Turn(f"row {thing.cell[1] + 1}", " ".join(t.words for t in row)),
                    Turn("find", " ".join(f"{t.words} {t.where}" for t in mixed)),
                    _bound(scene, thing, rng),
                    _all_bound(scene, rng),
                ]
            )
        )
    return turns


def _keys(rng: Random, count: int) -> list[str]:
    return rng.sample(rng.choice([k for k in (ALPHABET[:5], NONSENSE, KEYS) if len(k) >= count]), count)


def _rule(rng: Random, pairs: list[tuple[str, str]]) -> str:
    between = " = " if rng.random() < 0.6 else " "
    return " , ".join(f"{a}{between}{b}" for a, b in rng.sample(pairs, len(pairs)))


def _bound(scene: Scene, thing: Thing, rng: Random) -> Turn:
    """The prompt binds keys to names and asks for a cell; the answer is the key of the thing there."""
    others = [name for name in art.names().objects if name != thing.words]
    names = [thing.words, *rng.sample(others, rng.randint(1, 3))]
    keys = _keys(rng, len(names))
    return Turn(f"{_rule(rng, list(zip(names, keys, strict=True)))} ; {thing.where}", keys[0])


def _all_bound(scene: Scene, rng: Random) -> Turn:
    """The prompt binds keys to the names of up to six things; the answer lists the cell and key of each."""
    things = rng.sample(scene.listing(), min(6, len(scene.things)))
    names = list(dict.fromkeys(t.words for t in things))
    names += rng.sample(
        [n for n in art.names().objects if n not in names], rng.randint(0, 2) if len(names) > 1 else 2
    )
    keys = dict(zip(names, _keys(rng, len(names)), strict=True))
    named = rng.random() < 0.4
    answer = " ".join(
        f"{t.where} {t.words} {keys[t.words]}" if named else f"{t.where} {keys[t.words]}" for t in things
    )
    return Turn(f"{_rule(rng, list(keys.items()))} ; {'find' if named else 'list'}", answer)


def text_turns(rng: Random) -> list[Turn]:
    """Copying and look-up without an image: dense copy supervision, without which binding is not learned.

    The parts are copied in another order than given, so that counting positions does not solve the task.
    """
    some = rng.choice([KEYS, art.names().objects, whole_words()])
    if rng.random() < 0.4:
        parts = [[rng.choice(some) for _ in range(rng.randint(2, 5))] for _ in range(rng.randint(2, 5))]
        copied = rng.sample(parts, len(parts))
        return [Turn("copy " + " , ".join(map(" ".join, parts)), " , ".join(map(" ".join, copied)))]
    count = rng.randint(2, 10)
    left = list(dict.fromkeys(rng.choice(some) for _ in range(count)))
    pairs = list(zip(left, _keys(rng, len(left)), strict=True))
    if rng.random() < 0.3:
        pairs = [(b, a) for a, b in pairs]
    mixed = rng.sample(pairs, len(pairs))
    if rng.random() < 0.75:
        return [Turn(f"{_rule(rng, pairs)} ; list", " ".join(f"{a} {b}" for a, b in mixed))]
    back = rng.random() < 0.3
    turns = [Turn(f"; {b}", a) if back else Turn(f"; {a}", b) for a, b in mixed[:TURNS]]
    return [Turn(f"{_rule(rng, pairs)} {turns[0].question}", turns[0].answer), *turns[1:]]


def _maker_picture(rng: Random, jitter: int) -> tuple[Scene, list[Turn]]:
    """A captioned bar chart or place."""
    if rng.random() < 0.5:
        scene, _ = MAKERS["data"](rng, Split())
        bars = " ".join(f"{t.where[0]} {t.color} {t.variant}" for t in scene.listing())
        asked = rng.sample(scene.listing(), 2)
        return scene, [Turn("bars", bars), *(Turn(t.where[0], f"{t.color} {t.variant}") for t in asked)]
    place = rng.choice(art.names().photos)
    things = [_thing(rng, c, "object") for c in free_cells(rng, rng.randint(0, 2))]
    scene = Scene(things, place, faded=False, jitter=jitter)
    return scene, [Turn("photo", place)] + ([Turn("grid", scene.caption())] if things else [])


class CaptionStream(Sequence):
    """Base training examples, drawn on the fly: example `i` depends on (seed, i) only.

    jitter: largest offset of a thing from its cell, in pixels. most: largest number of things in a grid.
    text_share: share of examples without a picture. direct: share of grids whose look-ups are not preceded by
    the caption. A curriculum is a sequence of such streams, with few things on the patch grid first.
    """

    def __init__(
        self,
        size: int,
        seed: int = 0,
        jitter: int = 2,
        most: int = 8,
        text_share: float = 0.15,
        direct: float = 0.0,
    ) -> None:
        self.size, self.seed, self.jitter, self.most = size, seed, jitter, most
        self.text_share, self.direct = text_share, direct

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]  # no slices
        scene, turns, rng = self._draft(index)
        if scene is None:
            return Sample(index, f"text-{index}", "text", (), tuple(turns))
        return _sample(index, draw(scene, rng), turns)

    def lengths(self) -> np.ndarray:
        """int32[size]: length of every example in words, a picture as its patches; no picture is rendered."""
        lengths = np.empty(self.size, np.int32)
        for index in range(self.size):
            scene, turns, _ = self._draft(index)
            words = sum(t.question.count(" ") + t.answer.count(" ") + 5 for t in turns)
            lengths[index] = words + (len(CELLS) if scene else 0)
        return lengths

    def _draft(self, index: int) -> tuple[Scene | None, list[Turn], Random]:
        """Scene (None: text only) and turns of an example, and the random numbers to render it with."""
        if not 0 <= index < self.size:
            raise IndexError(index)
        rng = Random(f"captions/{self.seed}/{index}")
        jitter, kind = rng.randint(0, self.jitter), rng.random()
        if kind < self.text_share:
            return None, text_turns(rng), rng
        if kind < self.text_share + 0.1:
            return *_maker_picture(rng, jitter), rng
        scene = grid_scene(rng, jitter, self.most)
        turns = [Turn("grid", scene.caption()), *_lookups(scene, rng, rng.randint(1, TURNS))]
        return scene, turns[1:] if self.direct and rng.random() < self.direct else turns, rng


def _sample(index: int, image: Any, turns: list[Turn]) -> Sample:
    first = Turn(f"{IMAGE_PLACEHOLDER} {turns[0].question}", turns[0].answer)
    return Sample(index, f"caption-{index}", "captions", (image,), (first, *turns[1:]))


GATES = {"single_object": 0.90, "four_objects": 0.60, "short_words": 0.50, "lookup_of_three": 0.80}
"""Shares of held-out captions, right to the last token, that a base model must reach before it is used."""


def gate_sample(gate: str, index: int, seed: int = 0, jitter: int = 2) -> Sample:
    """Held-out item of a gate; its last turn is judged."""
    rng = Random(f"gate/{gate}/{seed}/{index}")
    if gate == "short_words":
        held_out = [w for w in WORDS if w not in READ_WORDS]
        scene = Scene(printed_word(rng, rng.choice(held_out)), jitter=min(jitter, 1))
        return _sample(
            index,
            draw(scene, rng),
            [Turn(f"row {scene.things[0].cell[1] + 1}", " ".join(t.words for t in scene.listing()))],
        )
    count = {"single_object": 1, "four_objects": 4, "lookup_of_three": 3}[gate]
    scene = Scene([_thing(rng, cell, "object") for cell in free_cells(rng, count)], jitter=jitter)
    if gate != "lookup_of_three":
        return _sample(index, draw(scene, rng), [Turn("grid", scene.caption())])
    keys = rng.sample(NONSENSE, 3)
    names = rng.sample(art.names().objects, 3)
    asked = rng.randrange(3)
    picture = Scene(
        [Thing("object", names[asked], free_cells(rng, 1)[0], variant=rng.randrange(art.ART_STYLES))],
        jitter=jitter,
    )
    rule = " , ".join(f"{n} = {k}" for n, k in zip(names, keys, strict=True))
    return _sample(index, draw(picture, rng), [Turn(f"{rule} ; {picture.things[0].where}", keys[asked])])
