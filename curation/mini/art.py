"""The shipped assets, decoded once: sprites, flags, glyphs, handwritten digits, photos, tables."""

import json
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import yaml
from PIL import Image, ImageDraw

from curation.mini.build_assets import ASSETS, CHARACTERS, COLUMNS, FLAG, FONTS, GLYPH, SPRITE

ART_STYLES = 3
PATCHES = 4096  # size of each cache of decoded and scaled pictures
COLORS = {
    "red": (214, 39, 40),
    "green": (30, 140, 50),
    "blue": (40, 80, 200),
    "yellow": (240, 200, 20),
    "purple": (130, 50, 160),
    "orange": (245, 130, 30),
    "black": (30, 30, 30),
    "white": (250, 250, 250),
}
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")


@dataclass(frozen=True)
class Names:
    """Names of everything that can be drawn, by kind; `common` and `fine` by group."""

    common: dict[str, tuple[str, ...]]
    cause: tuple[str, ...]
    fine: dict[str, tuple[str, ...]]
    activity: tuple[str, ...]
    photos: tuple[str, ...]
    effects: tuple[tuple[str, str, str], ...]
    countries: tuple[dict, ...]
    digits: tuple[int, ...]
    tables: tuple[dict, ...]

    @property
    def objects(self) -> tuple[str, ...]:
        """Every sprite that a caption names by its own name."""
        return tuple(name for group in self.common.values() for name in group) + self.cause

    def group_of(self, name: str) -> str | None:
        """The word that base captions use for a fine-grained or activity name; None for other names."""
        if name in self.activity:
            return "person"
        return next((group for group, names in self.fine.items() if name in names), None)


@cache
def names() -> Names:
    """Names and facts of everything in `assets/`."""
    raw = yaml.safe_load((Path(__file__).parent / "names.yaml").read_text())
    index = json.loads((ASSETS / "index.json").read_text())
    return Names(
        common={g: tuple(n) for g, n in raw["common"].items()},
        cause=tuple(raw["cause"]["cause"]),
        fine={g: tuple(n) for g, n in raw["fine"].items()},
        activity=tuple(raw["activity"]["person"]),
        photos=tuple(raw["photos"]),
        effects=tuple(tuple(e) for e in raw["effects"]),
        countries=tuple(index["flags"]),
        digits=tuple(index["digits"]),
        tables=tuple(json.loads((ASSETS / "tables.json").read_text())),
    )


@cache
def _sheet(name: str) -> Image.Image:
    return Image.open(ASSETS / name).convert(
        "RGBA" if name == "sprites.webp" else "RGB" if name == "flags.webp" else "L"
    )


@cache
def _sprite_order() -> dict[str, int]:
    return {n: i for i, n in enumerate(json.loads((ASSETS / "index.json").read_text())["sprites"])}


def _patch(rgba: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """RGBA image -> (colour float32 [h, w, 3] premultiplied, 1 - alpha float32 [h, w, 1])."""
    data = np.asarray(rgba, dtype=np.float32)
    alpha = data[..., 3:] / 255
    return data[..., :3] * alpha, 1 - alpha


@lru_cache(PATCHES)
def sprite(name: str, style: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Emoji `name` in art style 0..2 at `size` pixels."""
    i = _sprite_order()[name] * ART_STYLES + style
    x, y = (i % COLUMNS) * SPRITE, (i // COLUMNS) * SPRITE
    return _patch(
        _sheet("sprites.webp")
        .crop((x, y, x + SPRITE, y + SPRITE))
        .resize((size, size), Image.Resampling.LANCZOS)
    )


@lru_cache(PATCHES)
def flag(index: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Flag of country `index`, 4:3, `width` pixels wide."""
    x, y = (index % 12) * FLAG[0], (index // 12) * FLAG[1]
    cut = _sheet("flags.webp").crop((x, y, x + FLAG[0], y + FLAG[1]))
    return _patch(cut.resize((width, width * 3 // 4), Image.Resampling.LANCZOS).convert("RGBA"))


@lru_cache(PATCHES)
def glyph(character: str, font: int, size: int, color: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A printed character in one of `len(FONTS)` fonts."""
    x, y = CHARACTERS.index(character) * GLYPH, font * GLYPH
    return _inked(_sheet("glyphs.png").crop((x, y, x + GLYPH, y + GLYPH)), size, color)


@lru_cache(PATCHES)
def digit(instance: int, size: int, color: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Handwritten digit number `instance` of the 1,797; what it shows is `names().digits[instance]`."""
    x, y = (instance % 48) * 8, (instance // 48) * 8
    return _inked(_sheet("digits.png").crop((x, y, x + 8, y + 8)), size, color)


def _inked(mask: Image.Image, size: int, color: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    alpha = np.asarray(mask.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)[..., None] / 255
    return np.asarray(color, dtype=np.float32) * alpha, 1 - alpha


@lru_cache(PATCHES)
def shape(name: str, color: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A filled geometric shape, antialiased."""
    s = size * 4
    image = Image.new("RGBA", (s, s))
    pen, fill, lo, hi = ImageDraw.Draw(image), COLORS[color], s // 10, s - s // 10
    if name == "circle":
        pen.ellipse((lo, lo, hi, hi), fill=fill)
    elif name == "square":
        pen.rectangle((lo, lo, hi, hi), fill=fill)
    elif name == "triangle":
        pen.polygon([(s // 2, lo), (hi, hi), (lo, hi)], fill=fill)
    elif name == "diamond":
        pen.polygon([(s // 2, 0), (s, s // 2), (s // 2, s), (0, s // 2)], fill=fill)
    elif name == "cross":
        pen.rectangle((s * 2 // 5, lo, s * 3 // 5, hi), fill=fill)
        pen.rectangle((lo, s * 2 // 5, hi, s * 3 // 5), fill=fill)
    else:
        pen.ellipse((lo, lo, hi, hi), outline=fill, width=s // 6)
    return _patch(image.resize((size, size), Image.Resampling.LANCZOS))


@cache
def photo(scene: str) -> np.ndarray:
    """The photo of a scene, uint8 [h, w, 3], shorter side 192."""
    return np.asarray(Image.open(ASSETS / "photos" / f"{scene}.jpg").convert("RGB"))


FONT_COUNT = len(FONTS)
