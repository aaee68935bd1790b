"""One maker per capability: draws a scene and returns the questions that can be asked about it.

A maker is `make(rng, split) -> (Scene, [Atom, ...])`; the scene was drawn for the first atom. The
facts asked for (object and cell, colour and shape, word, digits, flag and place ...) belong to the pool or to
the benchmarks, as `Split.owns` decides.

The random draws and texts are data: another order or wording gives other pools and benchmarks, on which
shipped results and the trained base model depend.
"""

from collections.abc import Callable, Set
from random import Random
from string import ascii_lowercase

from curation.mini import art
from curation.mini.atom import Atom, Split
from curation.mini.scene import CELLS, GRID, MAX_BAR, Scene, Thing, block, cell_name, free_cells

NONSENSE = tuple("wug dax zim blik toma fep gorp lek mip nuv plim rup sko tiv vash yob".split())
"""Made-up words that an in-context question gives a meaning to."""
WORDS = (
    "ace act add age aid aim air ant arm art ash ask axe bag ban bar bat bay bed bet big bin bit bow "
    "box boy bug bun bus cab cap car cat cow cry cup cut day den dew dig dog dot dry due ear eat egg "
    "elm end eye fan far fat fig fin fit fly fog fox fun fur gas gem get gum gun gym ham hat hen hip "
    "hot hub hut ice ink jam jar jet job joy jug key kid kit lab lap law leg lid lip log low map mat "
    "mix mud mug nap net nut oak oil owl pan paw pea pen pet pie pig pin pit pot rag ram rat ray rib "
    "rod row rug run sad sap sea ship sky snow soap song star stem sun surf tail tap tea ten tin tip "
    "toe toy tree tub van vet wall warm wave wax web well wig wind wing wolf wood wool yard zip zoo "
    "bear bell bird boat bone book calm cave city clay coal coat cold cook cool corn crab deer desk "
    "dish dock drum duck dust east face farm fish flag foam fork frog game gate gift glue goat gold "
    "golf hand harp hawk hill home horn jazz"
).split()


def _object(rng: Random, name: str, cell: tuple[int, int], span: int = 1) -> Thing:
    return Thing("object", name, cell, span, variant=rng.randrange(art.ART_STYLES))


def _big_cell(rng: Random) -> tuple[int, int]:
    """Top-left cell of a thing of 2 x 2 cells."""
    return rng.randrange(GRID - 1), rng.randrange(GRID - 1)


def _photo(rng: Random) -> str | None:
    return rng.choice(art.names().photos) if rng.random() < 0.15 else None


def _objects(
    rng: Random, split: Split, count: int, taken: Set = frozenset(), without: Set = frozenset()
) -> list[Thing]:
    names = [n for n in art.names().objects if n not in without]
    picks = split.pick(rng, names, count)
    return [_object(rng, n, c) for n, c in zip(picks, free_cells(rng, count, taken), strict=True)]


def _at(thing: Thing, others: list[Thing], capability: str, level: int) -> Atom:
    """The question what is in one cell."""
    return Atom(
        capability,
        f"what is at {thing.where} ?",
        thing.words,
        "word",
        tuple(t.words for t in others) + art.names().objects,
        f"look at column {thing.where[0]} , row {thing.where[1]}",
        f"{thing.words} is at {thing.where}",
        level,
    )


def spatial(rng: Random, split: Split) -> tuple[Scene, list[Atom]]:
    """Where a thing is, and what is next to it."""
    name, cell = split.draw_owned(lambda: (split.pick(rng, art.names().objects)[0], rng.choice(CELLS)))
    target = _object(rng, name, cell)
    side, step = rng.choice(
        [("left of", (-1, 0)), ("right of", (1, 0)), ("above", (0, -1)), ("below", (0, 1))]
    )
    beside = (cell[0] + step[0], cell[1] + step[1])
    others = _objects(rng, split, rng.randint(2, 5), {cell, beside}, {name})
    where = Atom(
        "spatial",
        f"where is the {name} ?",
        target.where,
        "coordinate",
        tuple(t.where for t in others) + tuple(map(cell_name, CELLS)),
        f"it is in column {target.where[0]} and row {target.where[1]}",
        f"the {name} is at {target.where}",
        3,
    )
    atoms = [where]
    if beside in CELLS:
        [neighbour_name] = split.pick(rng, [n for n in art.names().objects if n != name])
        neighbour = _object(rng, neighbour_name, beside)
        atoms.append(
            Atom(
                "spatial",
                f"what is {side} the {name} ?",
                neighbour.name,
                "word",
                tuple(t.name for t in others) + art.names().objects,
                f"the {name} is at {target.where} , {side} it is {neighbour.where}",
                f"{neighbour.name} is {side} the {name}",
                4,
                ("logic",),
            )
        )
        others = [*(t for t in others if t.name != neighbour.name), neighbour]
    return Scene([target, *others], _photo(rng)), atoms


def attribute(rng: Random, split: Split) -> tuple[Scene, list[Atom]]:
    """Colour and shape of geometric things, and the number of copies of an object."""
    form, color, cell = split.draw_owned(
        lambda: (rng.choice(art.SHAPES), split.pick(rng, list(art.COLORS))[0], rng.choice(CELLS))
    )
    shapes = [form, *rng.sample([s for s in art.SHAPES if s != form], rng.randint(1, 3))]
    cells = [cell, *free_cells(rng, len(shapes) - 1, {cell})]
    things = [
        Thing("shape", s, c, color=color if s == form else rng.choice(list(art.COLORS)))
        for s, c in zip(shapes, cells, strict=True)
    ]
    counted, count = split.pick(rng, art.names().objects)[0], rng.randint(1, 5)
    copies = [_object(rng, counted, c) for c in free_cells(rng, count, set(cells))]
    colors = tuple(art.COLORS)
    atoms = [
        Atom(
            "attribute",
            f"what color is the {form} ?",
            color,
            "word",
            colors,
            f"the {form} is at {things[0].where}",
            f"the {form} is {color}",
            3,
        ),
        Atom(
            "attribute",
            f"which shape is at {things[0].where} ?",
            form,
            "word",
            art.SHAPES,
            f"{color} {form}",
            f"the {form} is at {things[0].where}",
            2,
            ("spatial",),
        ),
        Atom(
            "attribute",
            f"how many {counted} are there ?",
            str(count),
            "number",
            tuple("12345"),
            "count " + " ".join(t.where for t in Scene(copies).listing()),
            f"there are {count} {counted}",
            4,
        ),
    ]
    return Scene(things + copies, _photo(rng)), atoms


def logic(rng: Random, split: Split) -> tuple[Scene, list[Atom]]:
    """The odd one out, or a condition that decides which cell to read."""
    name, cell = split.draw_owned(lambda: (split.pick(rng, art.names().objects)[0], rng.choice(CELLS)))
    if rng.random() < 0.5:
        same = split.pick(rng, [n for n in art.names().objects if n != name])[0]
        copies = [_object(rng, same, c) for c in free_cells(rng, rng.randint(3, 5), {cell})]
        odd = _object(rng, name, cell)
        atoms = [
            Atom(
                "logic",
                "which one is different from the others ?",
                name,
                "word",
                (same, *art.names().objects),
                f"{len(copies)} are {same}",
                f"{name} is different from the others",
                3,
                ("comparison",),
            ),
            Atom(
                "logic",
                "where is the odd one ?",
                odd.where,
                "coordinate",
                tuple(t.where for t in copies),
                f"{len(copies)} are {same} and one is {name}",
                f"the odd one is at {odd.where}",
                4,
                ("spatial",),
            ),
        ]
        return Scene([odd, *copies], _photo(rng)), atoms
    answer, (other, decoy, missing) = _object(rng, name, cell), _objects(rng, split, 3, {cell}, {name})
    present = rng.random() < 0.5
    first, second = (answer, other) if present else (other, answer)
    tested = decoy.name if present else missing.name
    question = f"if there is {tested} then what is at {first.where} , else what is at {second.where} ?"
    reason = f"there is {'' if present else 'no '}{tested} , look at {answer.where}"
    atom = Atom(
        "logic",
        question,
        name,
        "word",
        (other.name, decoy.name, *art.names().objects),
        reason,
        f"{name} is at {answer.where}",
        5,
        ("spatial",),
    )
    return Scene([answer, other, decoy], _photo(rng)), [atom]


def scene(rng: Random, split: Split) -> tuple[Scene, list[Atom]]:
    """The place that a photo shows."""
    place = split.pick(rng, art.names().photos)[0]
    things = _objects(rng, split, rng.randint(0, 2))
    atoms = [
        Atom(
            "scene",
            rng.choice(["what place is this ?", "where was this photo taken ?"]),
            place,
            "word",
            art.names().photos,
            "look at the background",
            f"this is the {place}",
            3,
        )
    ]
    atoms += [_at(t, things, "spatial", 2) for t in things[:1]]
    return Scene(things, place, faded=False), atoms


def fine_grained(rng: Random, split: Split) -> tuple[Scene, list[Atom]]:
    """The exact kind of a bird, flower or swimmer."""
    group = rng.choice(list(art.names().fine))
    name, cell = split.draw_owned(lambda: (split.pick(rng, art.names().fine[group])[0], _big_cell(rng)))
    things = [_object(rng, name, cell, 2), *_objects(rng, split, rng.randint(0, 2), block(cell))]
    same = art.names().fine[group]
    every = tuple(n for names in art.names().fine.values() for n in names)
    atoms = [
        Atom(
            "fine_grained",
            f"which {group} is this ?",
            name,
            "word",
            same,
            f"it is some {group}",
            f"this {group} is {name}",
            3,
        ),
        Atom(
            "fine_grained",
            "what exactly is the big one ?",
            name,
            "word",
            every,
            f"it is some {group}",
            f"the big one is {name}",
            4,
        ),
    ]
    return Scene(things, _photo(rng)), atoms


def describe(scene: Scene) -> str:
    """A fluent description: every thing with its cell."""
    if not scene.things:
        return "there is nothing else ."
    return "there is " + " , ".join(f"{t.words} at {t.where}" for t in scene.listing()) + " ."


def generation(rng: Random, split: Split) -> tuple[Scene, list[Atom]]:
    """A description of several things."""
    name, cell = split.draw_owned(lambda: (split.pick(rng, art.names().objects)[0], rng.choice(CELLS)))
    things = [_object(rng, name, cell), *_objects(rng, split, rng.randint(1, 3), {cell}, {name})]
    spare = free_cells(rng, 2, {t.cell for t in things})
    things += [
        Thing("shape", rng.choice(art.SHAPES), c, color=rng.choice(list(art.COLORS)))
        for c in spare[: rng.randint(0, 2)]
    ]
    picture = Scene(things, _photo(rng))
    text = describe(picture)
    atom = Atom(
        "generation",
        rng.choice(["describe the image .", "what do you see ?"]),
        text,
        "facts",
        (text,),
        "look at each row",
        text.removesuffix(" ."),
        2 + len(things) // 2,
        ("spatial",),
    )
    return picture, [atom]


def in_context(rng: Random, split: Split) -> tuple[Scene, list[Atom]]:
    """Made-up names of objects, defined in the prompt."""
    name, word = split.draw_owned(lambda: (split.pick(rng, art.names().objects)[0], rng.choice(NONSENSE)))
    others = _objects(rng, split, 2, without={name})
    cell = free_cells(rng, 1, {t.cell for t in others})[0]
    target = _object(rng, name, cell)
    words = rng.sample([w for w in NONSENSE if w != word], 2)
    pairs = [(name, word), *((t.name, w) for t, w in zip(others, words, strict=True))]
    rng.shuffle(pairs)
    rule = " , ".join(f"{n} means {w}" for n, w in pairs)
    shown = [target] + (others if rng.random() < 0.6 else [])
    atom = Atom(
        "in_context",
        f"{rule} . what is at {target.where} ?",
        word,
        "word",
        tuple(words),
        f"{name} is at {target.where}",
        f"{word} is at {target.where}",
        3 if len(shown) == 1 else 4,
        ("logic",),
    )
    return Scene(shown, _photo(rng)), [atom]


def comparison(rng: Random, split: Split) -> tuple[Scene, list[Atom]]:
    """The most frequent or the biggest thing."""
    name, cell = split.draw_owned(lambda: (split.pick(rng, art.names().objects)[0], _big_cell(rng)))
    rest = split.pick(rng, [n for n in art.names().objects if n != name], 2)
    if rng.random() < 0.5:
        count = rng.randint(2, 4)
        counts = {name: count, rest[0]: rng.randint(1, count - 1), rest[1]: rng.randint(1, count - 1)}
        cells = free_cells(rng, sum(counts.values()))
        things = [_object(rng, n, cells.pop()) for n, c in counts.items() for _ in range(c)]
        reason = " , ".join(f"{n} {c}" for n, c in sorted(counts.items()))
        atom = Atom(
            "comparison",
            "what is there most of ?",
            name,
            "word",
            tuple(rest),
            reason,
            f"there is most of {name}",
            4,
            ("attribute",),
            len(art.names().objects),
        )
        return Scene(things, _photo(rng)), [atom]
    big = _object(rng, name, cell, 2)
    small_cells = free_cells(rng, 2, block(cell))
    things = [big, *(_object(rng, n, c) for n, c in zip(rest, small_cells, strict=True))]
    atom = Atom(
        "comparison",
        "what is the biggest thing ?",
        name,
        "word",
        tuple(rest),
        f"{rest[0]} and {rest[1]} are small",
        f"the {name} is the biggest",
        3,
        ("attribute",),
        len(art.names().objects),
    )
    return Scene(things, _photo(rng)), [atom]


def activity(rng: Random, split: Split) -> tuple[Scene, list[Atom]]:
    """The activity of a person."""
    name, cell = split.draw_owned(lambda: (split.pick(rng, art.names().activity)[0], _big_cell(rng)))
    things = [_object(rng, name, cell, 2), *_objects(rng, split, rng.randint(0, 2), block(cell))]
    atom = Atom(
        "activity",
        rng.choice(["what is the person doing ?", "which activity is this ?"]),
        name,
        "word",
        art.names().activity,
        "look at the person",
        f"the person is {name}",
        3,
    )
    return Scene(things, _photo(rng)), [atom]


def causal(rng: Random, split: Split) -> tuple[Scene, list[Atom]]:
    """The effect of two causes that meet."""
    (first, second, effect), place = split.draw_owned(
        lambda: (split.pick(rng, art.names().effects)[0], rng.choice(CELLS))
    )
    cells = free_cells(rng, 1, {place})
    others = _objects(rng, split, rng.randint(0, 2), {place, *cells}, set(art.names().cause))
    things = [_object(rng, first, place), _object(rng, second, cells[0]), *others]
    effects = tuple(e[2] for e in art.names().effects)
    atom = Atom(
        "causal",
        rng.choice(["what will happen ?", "what happens next ?"]),
        effect,
        "word",
        effects,
        f"there are {first} and {second}",
        f"it will {effect}",
        4,
    )
    return Scene(things, _photo(rng)), [atom]


def humanities(rng: Random, split: Split) -> tuple[Scene, list[Atom]]:
    """Country, capital and continent of a flag."""
    index, cell = split.draw_owned(
        lambda: (split.pick(rng, range(len(art.names().countries)))[0], _big_cell(rng))
    )
    country = {k: v.lower() for k, v in art.names().countries[index].items()}

    def fact(question: str, key: str, level: int) -> Atom:
        every = tuple(c[key].lower() for c in art.names().countries)
        return Atom(
            "humanities",
            question,
            country[key],
            "word",
            every,
            f"this is the flag of {country['name']}",
            f"the {key if key != 'name' else 'country'} is {country[key]}",
            level,
        )

    atoms = [
        fact("which country has this flag ?", "name", 3),
        fact("what is the capital of this country ?", "capital", 5),
        fact("on which continent is this country ?", "continent", 4),
    ]
    rng.shuffle(atoms)
    others = _objects(rng, split, rng.randint(0, 2), block(cell))
    things = [Thing("flag", "flag", cell, 2, variant=index), *others]
    return Scene(things, _photo(rng)), atoms


def _digit(rng: Random, split: Split, value: int, cell: tuple[int, int]) -> Thing:
    """A handwritten digit; every fifth instance is held out for the benchmarks."""
    instances = [i for i, d in enumerate(art.names().digits) if d == value and (i % 5 == 0) == split.held_out]
    return Thing("digit", str(value), cell, variant=rng.choice(instances))


def stem(rng: Random, split: Split) -> tuple[Scene, list[Atom]]:
    """A sum or difference of two handwritten digits."""
    result = rng.randint(0, 9)
    left = rng.randint(0, 9)
    sign, right = ("+", result - left) if left <= result else ("-", left - result)
    column, row = rng.randrange(GRID - 2), rng.randrange(GRID)
    things = [
        _digit(rng, split, left, (column, row)),
        Thing("sign", sign, (column + 1, row), variant=rng.randrange(art.FONT_COUNT)),
        _digit(rng, split, right, (column + 2, row)),
    ]
    atoms = [
        Atom(
            "stem",
            "what is the result ?",
            str(result),
            "number",
            tuple("0123456789"),
            f"{left} {sign} {right}",
            f"{left} {sign} {right} is {result}",
            4,
            ("ocr",),
        ),
        Atom(
            "stem",
            "what is the larger number ?",
            str(max(left, right)),
            "number",
            tuple("0123456789"),
            f"{left} and {right}",
            f"the larger number is {max(left, right)}",
            3,
            ("ocr", "comparison"),
        ),
    ]
    return Scene(
        things + _objects(rng, split, rng.randint(0, 1), {t.cell for t in things}), _photo(rng), jitter=1
    ), atoms


def data(rng: Random, split: Split) -> tuple[Scene, list[Atom]]:
    """A bar chart of a small real table."""
    tables = art.names().tables
    (index,) = split.draw_owned(lambda: (rng.randrange(len(tables)),))
    values = list(tables[index]["values"])
    rng.shuffle(values)
    low, high = min(values), max(values)
    heights = [1 + round((MAX_BAR - 1) * (v - low) / ((high - low) or 1)) for v in values]
    colors = rng.sample([c for c in art.COLORS if c != "white"], len(values))
    things = [
        Thing("bar", "bar", (i, GRID - 1), color=c, variant=h)
        for i, (c, h) in enumerate(zip(colors, heights, strict=True))
    ]
    asked = rng.randrange(len(values))
    top, bottom = colors[values.index(high)], colors[values.index(low)]
    listed = " , ".join(f"{c} {h}" for c, h in zip(colors, heights, strict=True))
    atoms = [
        Atom(
            "data",
            f"how high is the {colors[asked]} bar ?",
            str(heights[asked]),
            "number",
            tuple("123456"),
            listed,
            f"the {colors[asked]} bar is {heights[asked]} high",
            4,
            ("attribute",),
        )
    ]
    if heights.count(MAX_BAR) == 1:
        atoms.append(
            Atom(
                "data",
                "which bar is the highest ?",
                top,
                "word",
                tuple(colors),
                listed,
                f"the {top} bar is the highest",
                3,
            )
        )
    if heights.count(1) == 1:
        atoms.append(
            Atom(
                "data",
                "which bar is the lowest ?",
                bottom,
                "word",
                tuple(colors),
                listed,
                f"the {bottom} bar is the lowest",
                3,
            )
        )
    rng.shuffle(atoms)
    return Scene(things, None), atoms


def printed_word(rng: Random, word: str) -> list[Thing]:
    """The letters of a word, in a row of cells, in one font and colour."""
    row, start = rng.randrange(GRID), rng.randint(0, GRID - len(word))
    font, color = rng.randrange(art.FONT_COUNT), rng.choice(["black", "blue", "red", "purple", "green"])
    return [Thing("letter", ch, (start + i, row), color=color, variant=font) for i, ch in enumerate(word)]


def ocr(rng: Random, split: Split) -> tuple[Scene, list[Atom]]:
    """A printed word, spelled out."""
    (word,) = split.draw_owned(lambda: (split.pick(rng, WORDS)[0],))
    letters = printed_word(rng, word)
    row = letters[0].cell[1]
    spelled, asked = " ".join(word), rng.choice(letters)
    wrong = tuple(" ".join(w) for w in WORDS if len(w) == len(word))
    atoms = [
        Atom(
            "ocr",
            rng.choice(["what does it say ?", "read the word ."]),
            spelled,
            "spell",
            wrong,
            f"it has {len(word)} letters",
            f"it says {spelled}",
            4,
        ),
        Atom(
            "ocr",
            f"which letter is at {asked.where} ?",
            asked.name,
            "spell",
            tuple(ascii_lowercase),
            f"the word is {spelled}",
            f"the letter is {asked.name}",
            3,
            ("spatial",),
        ),
    ]
    return Scene(
        letters + _objects(rng, split, rng.randint(0, 2), {(c, row) for c in range(GRID)}),
        _photo(rng),
        jitter=1,
    ), atoms


MAKERS: dict[str, Callable[[Random, Split], tuple[Scene, list[Atom]]]] = {
    "spatial": spatial,
    "attribute": attribute,
    "logic": logic,
    "scene": scene,
    "fine_grained": fine_grained,
    "generation": generation,
    "in_context": in_context,
    "comparison": comparison,
    "activity": activity,
    "causal": causal,
    "humanities": humanities,
    "stem": stem,
    "data": data,
    "ocr": ocr,
}
"""Maker by capability."""
