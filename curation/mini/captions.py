"""What the base model is trained on: dense captions with positions, look-ups and copying. No question of the pool, no
benchmark format.

One example is one picture (or none) with several short prompts in a tag language of its own:

    grid -> "a1 dog b4 red circle c2 k"      b4 -> "red circle"      dog -> "a1"      row 2 -> "s t e m"
    dog = wug , cat = dax ; b4 -> "wug"      x y z -> "x y z"        bars -> "a red 3 b blue 5"

Fine-grained names, activities, effects, flags' countries and sums are never said: instruction data has to teach them.
"""

from collections.abc import Sequence
from random import Random
from typing import Any

from curation.mini import art
from curation.mini.atom import World
from curation.mini.makers import MAKERS, NONSENSE, WORDS
from curation.mini.scene import CELLS, GRID, Scene, Thing, block, draw, free_cells
from curation.pool.sample import IMAGE_PLACEHOLDER, Sample, Turn

ALPHABET = tuple("abcdefghijklmnopqrstuvwxyz")
READ_WORDS = tuple(w for w in WORDS if World().mine(w))  # the benchmarks' words are not shown to the base either
KEYS = (*ALPHABET, *"123456789", *NONSENSE)
TURNS = 4


def caption_words() -> str:
    """The words of the tag language."""
    return "grid row column bars photo big person bird flower swimmer flag bar = ; , . none same"


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
        return [Thing("object", rng.choice([n for g in art.names().fine.values() for n in g]), cell, 2, variant=style)]
    if draw_from < 0.85:
        return [Thing("object", rng.choice(art.names().activity), cell, 2, variant=style)]
    return [Thing("flag", "flag", cell, 2, variant=rng.randrange(len(art.names().countries)))]


def _word(rng: Random, word: str) -> list[Thing]:
    row, start = rng.randrange(GRID), rng.randint(0, GRID - len(word))
    font, color = rng.randrange(art.FONT_COUNT), rng.choice(["black", "blue", "red", "purple", "green"])
    return [Thing("letter", ch, (start + i, row), color=color, variant=font) for i, ch in enumerate(word)]


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
    photo = rng.choice(art.names().photos) if rng.random() < 0.15 else None
    return Scene(things, photo, jitter=min(jitter, 1) if any(t.kind == "letter" for t in things) else jitter)


def _lookups(scene: Scene, rng: Random, count: int) -> list[Turn]:
    """Questions about single cells, things and rows of a captioned picture."""
    turns = []
    listing = scene.listing()
    for _ in range(count):
        thing = rng.choice(listing)
        same = [t for t in listing if t.words == thing.words]
        row = [t for t in listing if t.cell[1] == thing.cell[1]]
        turns.append(rng.choice([
            Turn(thing.where, thing.words),
            Turn(thing.words, " ".join(t.where for t in same)),
            Turn(f"row {thing.cell[1] + 1}", " ".join(t.words for t in row)),
            _bound(scene, thing, rng),
        ]))
    return turns


def _bound(scene: Scene, thing: Thing, rng: Random) -> Turn:
    """Keys are bound to names in the prompt; a cell is asked, its key is the answer."""
    names = [thing.words] + rng.sample([n for n in art.names().objects if n != thing.words], rng.randint(1, 3))
    keys = rng.sample(rng.choice([ALPHABET[:4], NONSENSE, KEYS]), len(names))
    pairs = list(zip(names, keys))
    rng.shuffle(pairs)
    return Turn(" , ".join(f"{n} = {k}" for n, k in pairs) + f" ; {thing.where}", keys[0])


def text_turns(rng: Random) -> list[Turn]:
    """Copying and look-up without an image: what makes binding possible at all (dense copy supervision)."""
    everything = art.names().objects + KEYS
    if rng.random() < 0.4:
        items = [rng.choice(everything) for _ in range(rng.randint(3, 12))]
        return [Turn(" ".join(items), " ".join(items))]
    count = rng.randint(2, 5)
    names, keys = rng.sample(art.names().objects, count), rng.sample(rng.choice([ALPHABET[:5], NONSENSE, KEYS]), count)
    pairs = list(zip(names, keys)) if rng.random() < 0.5 else list(zip(keys, names))
    first, *rest = rng.sample(pairs, min(count, TURNS))
    back = rng.random() < 0.5
    turn = (lambda p: Turn(f"; {p[1]}", p[0])) if back else (lambda p: Turn(f"; {p[0]}", p[1]))
    opening = turn(first)
    return [Turn(" , ".join(f"{k} = {v}" for k, v in pairs) + f" {opening.question}", opening.answer), *map(turn, rest)]


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

    def __init__(self, size: int, seed: int = 0, jitter: int = 2, most: int = 8, text_share: float = 0.15, direct: float = 0.0) -> None:
        self.size, self.seed, self.jitter, self.most, self.text_share, self.direct = size, seed, jitter, most, text_share, direct

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.size:
            raise IndexError(index)
        rng = Random(f"captions/{self.seed}/{index}")
        jitter, kind = rng.randint(0, self.jitter), rng.random()
        if kind < self.text_share:
            return Sample(index, f"text-{index}", "text", (), tuple(text_turns(rng)))
        if kind < self.text_share + 0.1:
            scene, turns = _maker_picture(rng, jitter)
        else:
            scene = grid_scene(rng, jitter, self.most)
            turns = [Turn("grid", scene.caption()), *_lookups(scene, rng, rng.randint(1, TURNS))]
            if self.direct and rng.random() < self.direct:
                turns = turns[1:]
        return _sample(index, draw(scene, rng), turns)


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
        return _sample(index, draw(scene, rng), [Turn(f"row {scene.things[0].cell[1] + 1}", " ".join(t.words for t in scene.listing()))])
    count = {"single_object": 1, "four_objects": 4, "lookup_of_three": 3}[gate]
    scene = Scene([_thing(rng, cell, "object") for cell in free_cells(rng, count)], jitter=jitter)
    if gate != "lookup_of_three":
        return _sample(index, draw(scene, rng), [Turn("grid", scene.caption())])
    keys = rng.sample(NONSENSE, 3)
    names = rng.sample(art.names().objects, 3)
    asked = rng.randrange(3)
    picture = Scene([Thing("object", names[asked], free_cells(rng, 1)[0], variant=rng.randrange(art.ART_STYLES))], jitter=jitter)
    rule = " , ".join(f"{n} = {k}" for n, k in zip(names, keys))
    return _sample(index, draw(picture, rng), [Turn(f"{rule} ; {picture.things[0].where}", keys[asked])])
