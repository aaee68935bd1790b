"""What the base model is trained on: dense captions with positions, look-ups and copying. No question of the pool, no
benchmark format.

One example is one picture (or none) with several short prompts in a tag language of its own:

    grid -> "a1 dog b4 red circle c2 k"      b4 -> "red circle"      dog -> "a1"      row 2 -> "s t e m"
    find -> "k c2 dog a1 red circle b4"      dog = wug , cat = dax ; b4 -> "wug"      bars -> "a red 3 b blue 5"
    copy x y z -> "x y z"                    dog = wug , cat = dax ; list -> "cat dax dog wug"

Several answers in one (`find`, `list`, long copies) are what makes looking up by content emerge at all: each gives several
look-ups to learn from where a single question gives one. Words that the pool's questions are made of occur in random order
only. Fine-grained names, activities, effects, flags' countries and sums are never said: instruction data has to teach them.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from random import Random
from typing import Any

import numpy as np

from curation.mini import art
from curation.mini.atom import World
from curation.mini.makers import MAKERS, NONSENSE, WORDS
from curation.mini.scene import CELLS, GRID, Scene, Thing, block, draw, free_cells
from curation.pool.sample import IMAGE_PLACEHOLDER, Sample, Turn

ALPHABET = tuple("abcdefghijklmnopqrstuvwxyz")
READ_WORDS = tuple(
    w for w in WORDS if World().mine(w)
)  # the benchmarks' words are not shown to the base either
KEYS = (*ALPHABET, *"123456789", *NONSENSE)
TURNS = 4


@cache
def vocabulary() -> tuple[str, ...]:
    """Every whole word of the world, for copying in random order."""
    from curation.mini.tokenizer import VOCABULARY

    return tuple(w for w in VOCABULARY.read_text().split() if w.isalnum())


def caption_words() -> str:
    """The words of the tag language."""
    return (
        "grid row column bars photo find list copy big person bird flower swimmer flag bar = ; , . none same"
    )


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
    """One thing over 2 x 2 cells: an object by name, or something that a caption only calls by its group."""
    cell = (rng.randrange(GRID - 1), rng.randrange(GRID - 1))
    style = rng.randrange(art.ART_STYLES)
    draw_from = rng.random()
    if draw_from < 0.5:
        return [Thing("object", rng.choice(art.names().objects), cell, 2, variant=style)]
    if draw_from < 0.7:
        return [
            Thing(
                "object",
                rng.choice([n for g in art.names().fine.values() for n in g]),
                cell,
                2,
                variant=style,
            )
        ]
    if draw_from < 0.85:
        return [Thing("object", rng.choice(art.names().activity), cell, 2, variant=style)]
    return [Thing("flag", "flag", cell, 2, variant=rng.randrange(len(art.names().countries)))]


def _word(rng: Random, word: str) -> list[Thing]:
    row, start = rng.randrange(GRID), rng.randint(0, GRID - len(word))
    font, color = rng.randrange(art.FONT_COUNT), rng.choice(["black", "blue", "red", "purple", "green"])
    return [Thing("letter", ch, (start + i, row), color=color, variant=font) for i, ch in enumerate(word)]


def _repeated(rng: Random, things: list[Thing], taken: set[tuple[int, int]]) -> list[Thing]:
    """Some of the single things become further copies of one of them."""
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
        things = _word(rng, rng.choice(READ_WORDS))
    taken = {c for t in things for c in (block(t.cell) if t.span == 2 else {t.cell})}
    count = rng.randint(0 if things else 1, max(1, min(most - len(things), len(CELLS) - len(taken))))
    kinds = rng.choices(("object", "shape", "letter", "digit"), (5, 1.5, 1.5, 1.5), k=count)
    things += [_thing(rng, cell, kind) for cell, kind in zip(free_cells(rng, count, taken), kinds)]
    if rng.random() < 0.25:
        things = _repeated(rng, things, taken)
    photo = rng.choice(art.names().photos) if rng.random() < 0.15 else None
    return Scene(things, photo, jitter=min(jitter, 1) if any(t.kind == "letter" for t in things) else jitter)


def _lookups(scene: Scene, rng: Random, count: int) -> list[Turn]:
    """Questions about single cells, things and rows of a captioned picture, and about all of its things in random order."""
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
    """Keys are bound to names in the prompt; a cell is asked, its key is the answer."""
    names = [thing.words] + rng.sample(
        [n for n in art.names().objects if n != thing.words], rng.randint(1, 3)
    )
    keys = _keys(rng, len(names))
    return Turn(f"{_rule(rng, list(zip(names, keys)))} ; {thing.where}", keys[0])


def _all_bound(scene: Scene, rng: Random) -> Turn:
    """Keys are bound to the names of up to six things; the cell and the key of each are the answer, with or without the name."""
    things = rng.sample(scene.listing(), min(6, len(scene.things)))
    names = list(dict.fromkeys(t.words for t in things))
    names += rng.sample(
        [n for n in art.names().objects if n not in names], rng.randint(0, 2) if len(names) > 1 else 2
    )
    key = dict(zip(names, _keys(rng, len(names))))
    named = rng.random() < 0.4
    answer = " ".join(
        f"{t.where} {t.words} {key[t.words]}" if named else f"{t.where} {key[t.words]}" for t in things
    )
    return Turn(f"{_rule(rng, list(key.items()))} ; {'find' if named else 'list'}", answer)


def text_turns(rng: Random) -> list[Turn]:
    """Copying and look-up without an image: what makes binding possible at all (dense copy supervision).

    Parts are repeated in another order than they were given in, so that counting positions is no way to copy.
    """
    some = rng.choice([KEYS, art.names().objects, vocabulary()])
    if rng.random() < 0.4:
        parts = [[rng.choice(some) for _ in range(rng.randint(2, 5))] for _ in range(rng.randint(2, 5))]
        mixed = rng.sample(parts, len(parts))
        return [Turn("copy " + " , ".join(map(" ".join, parts)), " , ".join(map(" ".join, mixed)))]
    count = rng.randint(2, 10)
    left = list(dict.fromkeys(rng.choice(some) for _ in range(count)))
    pairs = list(zip(left, _keys(rng, len(left))))
    if rng.random() < 0.3:
        pairs = [(b, a) for a, b in pairs]
    mixed = rng.sample(pairs, len(pairs))
    if rng.random() < 0.75:
        return [Turn(f"{_rule(rng, pairs)} ; list", " ".join(f"{a} {b}" for a, b in mixed))]
    back = rng.random() < 0.3
    turns = [Turn(f"; {b}", a) if back else Turn(f"; {a}", b) for a, b in mixed[:TURNS]]
    return [Turn(f"{_rule(rng, pairs)} {turns[0].question}", turns[0].answer), *turns[1:]]


def _maker_picture(rng: Random, jitter: int) -> tuple[Scene, list[Turn]]:
    """A bar chart or a place, captioned."""
    if rng.random() < 0.5:
        scene, _ = MAKERS["data"](rng, World())
        bars = " ".join(f"{t.where[0]} {t.color} {t.variant}" for t in scene.listing())
        asked = rng.sample(scene.listing(), 2)
        return scene, [Turn("bars", bars), *(Turn(t.where[0], f"{t.color} {t.variant}") for t in asked)]
    place = rng.choice(art.names().photos)
    things = [_thing(rng, c, "object") for c in free_cells(rng, rng.randint(0, 2))]
    scene = Scene(things, place, faded=False, jitter=jitter)
    return scene, [Turn("photo", place)] + ([Turn("grid", scene.caption())] if things else [])


class CaptionStream(Sequence):
    """Base training examples, drawn on the fly: example `i` depends on (seed, i) only.

    `jitter` is the most pixels that a thing stands off its cell, `most` the most things of a grid, `direct` the share of grids whose
    look-ups are asked without a caption before them; a curriculum is a sequence of such streams (on the patch grid and few first).
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
        self.size, self.seed, self.jitter, self.most, self.text_share, self.direct = (
            size,
            seed,
            jitter,
            most,
            text_share,
            direct,
        )

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Sample:
        scene, turns, rng = self._draft(index)
        if scene is None:
            return Sample(index, f"text-{index}", "text", (), tuple(turns))
        return _sample(index, draw(scene, rng), turns)

    def lengths(self) -> np.ndarray:
        """int32[size]: length of every example in words, a picture counted as its patches; nothing is drawn."""
        out = np.empty(self.size, np.int32)
        for index in range(self.size):
            scene, turns, _ = self._draft(index)
            out[index] = sum(t.question.count(" ") + t.answer.count(" ") + 5 for t in turns) + (
                len(CELLS) if scene else 0
            )
        return out

    def _draft(self, index: int) -> tuple[Scene | None, list[Turn], Random]:
        """Picture (None: text only) and turns of an example, and the random numbers to draw it with."""
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
"""What a base must reach before anything is compared: share of held-out captions that are right to the last token."""


def gate_sample(gate: str, index: int, seed: int = 0, jitter: int = 2) -> Sample:
    """Held-out item of a gate; its last turn is the one that is judged."""
    rng = Random(f"gate/{gate}/{seed}/{index}")
    if gate == "short_words":
        held_out = [w for w in WORDS if w not in READ_WORDS]
        scene = Scene(_word(rng, rng.choice(held_out)), jitter=min(jitter, 1))
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
    rule = " , ".join(f"{n} = {k}" for n, k in zip(names, keys))
    return _sample(index, draw(picture, rng), [Turn(f"{rule} ; {picture.things[0].where}", keys[asked])])
