"""One sample of the mini pool before it is written: what it shows, what is said, which defects it carries.

Sample `i` depends on (seed, i, defects) only, so a pool can be drawn in any order and in parts. A near-duplicate is an
earlier sample drawn again a pixel or two further.
"""

from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from random import Random

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from curation.mini import art
from curation.mini.atom import Asked, Atom, World, ask
from curation.mini.makers import MAKERS, NONSENSE, describe
from curation.mini.scene import Scene, draw
from curation.taxonomy import CAPABILITY_KEYS, STYLES

FIRST_COPY = 100  # the first samples are originals
ANY_STYLE = 0.05  # share of turns in a style drawn from all nine, whatever the source
LOOK_BACK = 2000  # a near-duplicate's original lies at most this many samples before it


class Defects(BaseModel):
    """Rates of the defects that real pools have; 0 everywhere is a clean, uniform pool with an image in every sample.

    The defaults are published figures of public mixtures; README.md beside this file names the source of each.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    near_duplicates: float = Field(
        0.30, ge=0, lt=1, description="share of samples that are an earlier one drawn again"
    )
    wrong_answers: float = Field(0.05, ge=0, lt=1, description="share whose answers are wrong")
    mismatched: float = Field(
        0.05, ge=0, lt=1, description="share of the samples with an image whose image is another's"
    )
    blind: float = Field(
        0.05, ge=0, lt=1, description="share of the samples with an image that can be answered without it"
    )
    text_only: float = Field(0.14, ge=0, lt=1, description="share of samples without an image")
    leaks: float = Field(0.02, ge=0, lt=1, description="share copied from the benchmarks")
    zipf: float = Field(1.0, ge=0, le=2, description="exponent of the concepts' frequencies inside a source")
    imbalance: float = Field(
        1.0, ge=0, le=2, description="exponent on the sources' shares; 0 = equal sources"
    )

    @model_validator(mode="after")
    def _exclusive(self) -> "Defects":
        if self.wrong_answers + self.mismatched + self.blind > 1:
            raise ValueError(
                "a sample has at most one of wrong_answers, mismatched and blind: together they are above 1"
            )
        return self


@dataclass(frozen=True)
class Source:
    """One source of the pool: its share of the samples with an image and what it is made of; `text` marks the one that the
    samples without an image come from."""

    name: str
    share: float
    turns: tuple[int, int]
    capabilities: dict[str, float]
    styles: dict[str, float]
    text: bool = False


@cache
def sources() -> tuple[Source, ...]:
    """The sources of sources.yaml."""
    raw = yaml.safe_load((Path(__file__).parent / "sources.yaml").read_text())
    return tuple(Source(name=name, **{**spec, "turns": tuple(spec["turns"])}) for name, spec in raw.items())


@dataclass
class Draft:
    """A sample to be written; `scene` is None for a text-only one. `root` is the index of the sample that it repeats."""

    index: int
    source: str
    scene: Scene | None
    asked: list[Asked]
    wrong: bool = False
    mismatched: bool = False
    blind: bool = False
    root: int | None = None
    render_key: str = field(default="", repr=False)

    def image(self):
        """The picture, PIL RGB 64 x 64 (None for text-only)."""
        return None if self.scene is None else draw(self.scene, Random(self.render_key))

    def styles(self) -> list[str]:
        """Interaction styles in order of first appearance."""
        return list(dict.fromkeys(a.style for a in self.asked))

    def scores(self) -> dict[str, int]:
        """Capability scores 0..5 as a perfect rater that ignores correctness would give them."""
        out = dict.fromkeys(CAPABILITY_KEYS, 0)
        for turn in self.asked:
            secondary = 2 if turn.level >= 4 else 1
            shown = {turn.atom.capability: turn.level} | {c: secondary for c in turn.atom.also}
            by_style = {
                "chain_of_thought": "logic",
                "comparison": "comparison",
                "specified": "in_context",
                "detailed_description": "generation",
            }.get(turn.style)
            if by_style:
                shown[by_style] = max(shown.get(by_style, 0), 2)
            out = {c: max(score, shown.get(c, 0)) for c, score in out.items()}
        return out


def text_atom(rng: Random, world: World, capability: str) -> Atom:
    """A question that needs no image."""
    if capability == "stem":
        left, right = rng.randint(0, 4), rng.randint(0, 5)
        return Atom(
            "stem",
            f"what is {left} + {right} ?",
            str(left + right),
            "number",
            tuple("0123456789"),
            f"{left} + {right}",
            f"{left} + {right} is {left + right}",
            2,
        )
    if capability == "causal":
        first, second, effect = world.pick(rng, art.names().effects)[0]
        return Atom(
            "causal",
            f"{first} and {second} , what will happen ?",
            effect,
            "word",
            tuple(e[2] for e in art.names().effects),
            f"there are {first} and {second}",
            f"it will {effect}",
            3,
        )
    if capability == "in_context":
        names, words = rng.sample(art.names().objects, 3), rng.sample(NONSENSE, 3)
        rule = " , ".join(f"{n} means {w}" for n, w in zip(names, words))
        return Atom(
            "in_context",
            f"{rule} . what means {names[0]} ?",
            words[0],
            "word",
            tuple(words[1:]),
            f"look for {names[0]}",
            f"{names[0]} means {words[0]}",
            3,
        )
    country = {k: v.lower() for k, v in world.pick(rng, art.names().countries)[0].items()}
    key = rng.choice(["capital", "continent"])
    return Atom(
        "humanities",
        f"what is the {key} of {country['name']} ?",
        country[key],
        "word",
        tuple(c[key].lower() for c in art.names().countries),
        f"think of {country['name']}",
        f"the {key} of {country['name']} is {country[key]}",
        3,
    )


def _style(atom: Atom, wanted: str) -> str:
    """The style that an atom is asked in when `wanted` was drawn: not every fact fits every style."""
    if atom.kind == "facts":
        return wanted if wanted in ("detailed_description", "short_description") else "detailed_description"
    if wanted in ("word", "coordinate"):
        return "coordinate" if atom.kind == "coordinate" else "word"
    return wanted


def _turns(rng: Random, source: Source, atoms: list[Atom], listing: str) -> list[Asked]:
    styles, weights = list(source.styles), list(source.styles.values())
    out = []
    for atom in atoms:
        wanted = rng.choice(tuple(STYLES)) if rng.random() < ANY_STYLE else rng.choices(styles, weights)[0]
        out.append(ask(atom, _style(atom, wanted), rng, listing))
    return out


def _source(rng: Random, defects: Defects, text_only: bool) -> Source:
    if text_only:
        return next(s for s in sources() if s.text)
    return rng.choices(sources(), [s.share**defects.imbalance for s in sources()])[0]


def _defects(rng: Random, defects: Defects, text_only: bool) -> tuple[bool, bool, bool]:
    """(wrong, mismatched, blind), at most one of them; without an image only the first is possible."""
    kind = rng.random() - defects.wrong_answers
    if kind < 0 or text_only:
        return kind < 0, False, False
    return False, kind < defects.mismatched, defects.mismatched <= kind < defects.mismatched + defects.blind


def _misdescribed(atom: Atom, scene: Scene, rng: Random) -> Atom:
    """The description of a scene with one of its things named as another of its kind."""
    told = rng.choice(scene.things)
    name = rng.choice(
        [n for n in (art.SHAPES if told.kind == "shape" else art.names().objects) if n != told.name]
    )
    text = describe(replace(scene, things=[replace(t, name=name) if t is told else t for t in scene.things]))
    return replace(atom, answer=text, statement=text.removesuffix(" ."))


def draft(index: int, seed: int, defects: Defects) -> Draft:
    """Sample `index` of the pool of `seed`."""
    rng = Random(f"pool/{seed}/{index}")
    if index > FIRST_COPY and rng.random() < defects.near_duplicates:
        original = draft(rng.randrange(max(0, index - LOOK_BACK), index), seed, defects)
        original.root = original.index if original.root is None else original.root
        original.index, original.render_key = index, f"render/{seed}/{index}"
        return original
    world = World(zipf=defects.zipf)
    text_only = rng.random() < defects.text_only
    source = _source(rng, defects, text_only)
    capability = rng.choices(list(source.capabilities), list(source.capabilities.values()))[0]
    scene, atoms = MAKERS[capability](rng, world)
    wrong, mismatched, blind = _defects(rng, defects, text_only)
    count = rng.randint(*source.turns)
    if text_only or blind:
        atoms = [text_atom(rng, world, capability) for _ in range(count)]
    if wrong:
        atoms = [_misdescribed(a, scene, rng) if a.kind == "facts" else a.corrupted(rng) for a in atoms]
    asked = _turns(rng, source, atoms[:count], "" if text_only or blind else describe(scene))
    if mismatched:
        scene, _ = MAKERS[capability](rng, world)
    return Draft(
        index,
        source.name,
        None if text_only else scene,
        asked,
        wrong,
        mismatched,
        blind,
        None,
        f"render/{seed}/{index}",
    )
