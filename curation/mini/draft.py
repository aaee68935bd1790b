"""One sample of the mini pool before it is written: its scene, its turns and its defects.

Sample `i` depends on (seed, i, defects) only, so a pool can be drawn in any order and in parts. A
near-duplicate is an earlier sample, rendered again with an offset of a pixel or two.
"""

from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from random import Random

import yaml
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from curation.mini import art
from curation.mini.atom import Asked, Atom, Split, ask
from curation.mini.makers import MAKERS, NONSENSE, describe
from curation.mini.scene import Scene, draw
from curation.taxonomy import CAPABILITY_KEYS, STYLES

FIRST_COPY = 100  # samples up to this index are originals
ANY_STYLE = 0.05  # share of turns whose style is drawn from all nine instead of the source's
LOOK_BACK = 2000  # largest distance between a near-duplicate and its original, in samples


class Defects(BaseModel):
    """Rates of the defects that real pools have. All 0: a clean, uniform pool with an image in every sample.

    The defaults are published figures of public mixtures; README.md in this folder names the source of each.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    near_duplicates: float = Field(
        default=0.30, ge=0, lt=1, description="share of samples that repeat an earlier one"
    )
    wrong_answers: float = Field(
        default=0.05, ge=0, lt=1, description="share of samples whose answers are wrong"
    )
    mismatched: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="share of the samples with an image whose image does not match the text",
    )
    blind: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="share of the samples with an image that can be answered without it",
    )
    text_only: float = Field(default=0.14, ge=0, lt=1, description="share of samples without an image")
    leaks: float = Field(default=0.02, ge=0, lt=1, description="share of samples copied from the benchmarks")
    zipf: float = Field(
        default=1.0, ge=0, le=2, description="exponent of the concept frequencies within a source"
    )
    imbalance: float = Field(
        default=1.0, ge=0, le=2, description="exponent on the shares of the sources; 0 = equal shares"
    )

    @model_validator(mode="after")
    def _exclusive(self) -> "Defects":
        if self.wrong_answers + self.mismatched + self.blind > 1:
            raise ValueError(
                "wrong_answers, mismatched and blind exclude each other, but their sum is above 1"
            )
        return self


@dataclass(frozen=True)
class Source:
    """One source of the pool.

    share: weight among the samples with an image. turns: smallest and largest number of turns. capabilities,
    styles: weights to draw with. text: whether the samples without an image come from this source.
    """

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
    """A sample to be written. `scene`: None if text-only. `root`: index of the sample that it repeats."""

    index: int
    source: str
    scene: Scene | None
    asked: list[Asked]
    wrong: bool = False
    mismatched: bool = False
    blind: bool = False
    root: int | None = None
    render_key: str = field(default="", repr=False)

    def image(self) -> Image.Image | None:
        """The rendered scene, RGB 64 x 64; None if text-only."""
        return None if self.scene is None else draw(self.scene, Random(self.render_key))

    def styles(self) -> list[str]:
        """Interaction styles in order of first appearance."""
        return list(dict.fromkeys(turn.style for turn in self.asked))

    def scores(self) -> dict[str, int]:
        """Scores 0..5 by capability, as a perfect rater that ignores correctness would give them."""
        scores = dict.fromkeys(CAPABILITY_KEYS, 0)
        for turn in self.asked:
            secondary = 2 if turn.level >= 4 else 1
            exercised = {turn.atom.capability: turn.level} | dict.fromkeys(turn.atom.also, secondary)
            by_style = {
                "chain_of_thought": "logic",
                "comparison": "comparison",
                "specified": "in_context",
                "detailed_description": "generation",
            }.get(turn.style)
            if by_style:
                exercised[by_style] = max(exercised.get(by_style, 0), 2)
            for capability, score in exercised.items():
                scores[capability] = max(scores[capability], score)
        return scores


def text_atom(rng: Random, split: Split, capability: str) -> Atom:
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
        first, second, effect = split.pick(rng, art.names().effects)[0]
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
        rule = " , ".join(f"{name} means {word}" for name, word in zip(names, words, strict=True))
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
    country = {k: v.lower() for k, v in split.pick(rng, art.names().countries)[0].items()}
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
    """The style to ask an atom in if `wanted` was drawn; not every style fits every fact."""
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
    """(wrong, mismatched, blind), at most one of them true; a text-only sample can only be wrong."""
    kind = rng.random() - defects.wrong_answers
    if kind < 0 or text_only:
        return kind < 0, False, False
    return False, kind < defects.mismatched, defects.mismatched <= kind < defects.mismatched + defects.blind


def _misdescribed(atom: Atom, scene: Scene, rng: Random) -> Atom:
    """The description of a scene in which one thing has the name of another thing of its kind."""
    target = rng.choice(scene.things)
    names = art.SHAPES if target.kind == "shape" else art.names().objects
    wrong_name = rng.choice([name for name in names if name != target.name])
    things = [replace(thing, name=wrong_name) if thing is target else thing for thing in scene.things]
    text = describe(replace(scene, things=things))
    return replace(atom, answer=text, statement=text.removesuffix(" ."))


def draft(index: int, seed: int, defects: Defects) -> Draft:
    """Sample `index` of the pool with this seed and these defects."""
    rng = Random(f"pool/{seed}/{index}")
    if index > FIRST_COPY and rng.random() < defects.near_duplicates:
        original = draft(rng.randrange(max(0, index - LOOK_BACK), index), seed, defects)
        original.root = original.index if original.root is None else original.root
        original.index, original.render_key = index, f"render/{seed}/{index}"
        return original
    split = Split(zipf=defects.zipf)
    text_only = rng.random() < defects.text_only
    source = _source(rng, defects, text_only)
    capability = rng.choices(list(source.capabilities), list(source.capabilities.values()))[0]
    scene, atoms = MAKERS[capability](rng, split)
    wrong, mismatched, blind = _defects(rng, defects, text_only)
    count = rng.randint(*source.turns)
    if text_only or blind:
        atoms = [text_atom(rng, split, capability) for _ in range(count)]
    if wrong:
        atoms = [_misdescribed(a, scene, rng) if a.kind == "facts" else a.corrupted(rng) for a in atoms]
    asked = _turns(rng, source, atoms[:count], "" if text_only or blind else describe(scene))
    if mismatched:
        scene, _ = MAKERS[capability](rng, split)
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
