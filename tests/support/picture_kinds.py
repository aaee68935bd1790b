"""Pictures of the kinds that instruction data hold, and what happens to a copy of one.

Every picture of a kind has the layout of the others and a content of its own: the hard negatives of a search
for copies. Photographs are crops of those of the mini world under coloured clouds, so that no two are alike.
"""

import io
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFont, ImageOps

PHOTOS = Path(__file__).parents[2] / "curation" / "mini" / "assets" / "photos"
WORDS = (
    "the of and a to in is was he for it with as his on be at by had not are but from or have an they which "
    "one you were all her she there would their we him been has when who will no more if out so up said what"
).split()
FONT = ImageFont.load_default(14)


def photo(rng: Random) -> Image.Image:
    """480 x 360: a crop of a photograph, and clouds of four sizes."""
    whole = Image.open(rng.choice(sorted(PHOTOS.iterdir()))).convert("RGB")
    side = rng.randint(70, 110)
    x, y = rng.randint(0, whole.width - side), rng.randint(0, whole.height - side)
    crop = whole.resize((480, 360), Image.Resampling.BICUBIC, box=(x, y, x + side, y + side))
    pixels, noise = np.asarray(crop, np.float32), np.random.default_rng(rng.randrange(1 << 32))
    for cells in (3, 6, 12, 40):
        for channel in range(3):
            grid = Image.fromarray(noise.normal(0, 60 / cells**0.5, (cells, cells)).astype(np.float32))
            clouds = np.zeros_like(pixels)
            clouds[..., channel] = np.asarray(grid.resize((480, 360), Image.Resampling.BICUBIC))
            pixels = pixels + clouds
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _axes() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (480, 360), "white")
    pen = ImageDraw.Draw(image)
    pen.line((50, 20, 50, 310, 460, 310), fill="black", width=2)
    return image, pen


def bars(rng: Random) -> Image.Image:
    """A bar chart of six bars with labels and a title."""
    image, pen = _axes()
    for step in range(5):
        pen.line((50, 310 - 58 * step, 460, 310 - 58 * step), fill=(220, 220, 220))
        pen.text((20, 303 - 58 * step), str(step * 20), fill="black", font=FONT)
    for bar in range(6):
        height, x = rng.randint(20, 280), 65 + bar * 66
        pen.rectangle((x, 310 - height, x + 44, 309), fill=(70, 130, 180))
        pen.text((x, 315), rng.choice(WORDS), fill="black", font=FONT)
    pen.text((150, 2), f"Share of {rng.choice(WORDS)} by {rng.choice(WORDS)}", fill="black", font=FONT)
    return image


def lines(rng: Random) -> Image.Image:
    """A chart of three lines."""
    image, pen = _axes()
    for colour in ((200, 30, 30), (30, 30, 200), (30, 150, 30)):
        y, points = rng.randint(60, 280), []
        for x in range(50, 461, 41):
            y = min(300, max(30, y + rng.randint(-40, 40)))
            points.append((x, y))
        pen.line(points, fill=colour, width=2)
    return image


def page(rng: Random) -> Image.Image:
    """A page of text."""
    image = Image.new("RGB", (480, 620), "white")
    pen, y = ImageDraw.Draw(image), 30
    while y < 580:
        line = ""
        while pen.textlength(line, font=FONT) < 370:
            line += rng.choice(WORDS) + " "
        pen.text((40, y), line, fill="black", font=FONT)
        y += 36 if rng.random() < 0.08 else 18
    return image


def form(rng: Random) -> Image.Image:
    """A form of fourteen fields, filled in."""
    image = Image.new("RGB", (480, 620), "white")
    pen = ImageDraw.Draw(image)
    pen.rectangle((30, 30, 450, 80), outline="black")
    pen.text((180, 48), "REQUEST FORM", fill="black", font=FONT)
    for field in range(14):
        y = 100 + field * 36
        name = ("Name", "Date", "City", "Total", "Phone", "Code", "Item")[field % 7]
        pen.text((40, y), f"{name}:", fill="black", font=FONT)
        pen.line((120, y + 16, 440, y + 16), fill="black")
        pen.text((130, y), " ".join(rng.choices(WORDS, k=rng.randint(1, 4))), fill="black", font=FONT)
    return image


def screen(rng: Random) -> Image.Image:
    """A screenshot of one program: a bar, a menu and nine rows."""
    image = Image.new("RGB", (640, 400), (245, 245, 245))
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 0, 640, 36), fill=(32, 60, 120))
    pen.rectangle((0, 36, 150, 400), fill=(225, 228, 235))
    for entry in range(8):
        pen.text((14, 52 + entry * 30), rng.choice(WORDS).title(), fill="black", font=FONT)
    for row in range(9):
        y = 52 + row * 38
        pen.rectangle((166, y, 624, y + 30), fill="white", outline=(200, 200, 200))
        pen.text((176, y + 7), " ".join(rng.choices(WORDS, k=rng.randint(2, 9))), fill="black", font=FONT)
    return image


def flat(rng: Random) -> Image.Image:
    """One colour."""
    return Image.new("RGB", (320, 240), tuple(rng.randint(0, 255) for _ in range(3)))


def grainy(rng: Random) -> Image.Image:
    """One colour with noise of two levels."""
    colour = [rng.randint(40, 215) for _ in range(3)]
    noise = np.random.default_rng(rng.randrange(1 << 32)).normal(0, 2, (240, 320, 3))
    return Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8))


def icon(rng: Random) -> Image.Image:
    """A shape on white."""
    image = Image.new("RGB", (320, 240), "white")
    x, y = rng.randint(40, 230), rng.randint(20, 170)
    pen = ImageDraw.Draw(image)
    draw = (pen.ellipse, pen.rectangle)[rng.randint(0, 1)]
    draw((x, y, x + 50, y + 50), fill=tuple(rng.randint(0, 200) for _ in range(3)))
    return image


KINDS: dict[str, Callable[[Random], Image.Image]] = {
    draw.__name__: draw for draw in (photo, bars, lines, page, form, screen, icon, flat, grainy)
}


def picture(kind: str, number: int) -> Image.Image:
    """Picture `number` of a kind: always the same."""
    return KINDS[kind](Random(f"{kind}/{number}"))


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    """The image as it comes back from a JPEG."""
    stored = io.BytesIO()
    image.save(stored, "JPEG", quality=quality)
    return Image.open(io.BytesIO(stored.getvalue())).convert("RGB")


def smaller(image: Image.Image, by: int) -> Image.Image:
    """A `by`-th of the width and height."""
    return image.resize((image.width // by, image.height // by), Image.Resampling.LANCZOS)


def cropped(image: Image.Image, share: float) -> Image.Image:
    """The image without a share of each side."""
    x, y = round(image.width * share), round(image.height * share)
    return image.crop((x, y, image.width - x, image.height - y))


def captioned(image: Image.Image) -> Image.Image:
    """The image with a line of text in a corner."""
    image = image.copy()
    pen = ImageDraw.Draw(image)
    pen.rectangle((10, image.height - 30, 200, image.height - 8), fill="white")
    pen.text((14, image.height - 28), "(c) some archive", fill="black", font=FONT)
    return image


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG 75": lambda image: jpeg(image, 75),
    "JPEG 30": lambda image: jpeg(image, 30),
    "half size": lambda image: smaller(image, 2),
    "third, JPEG 50": lambda image: jpeg(smaller(image, 3), 50),
    "crop 1 % a side": lambda image: cropped(image, 0.01),
    "crop 2.5 % a side": lambda image: cropped(image, 0.025),
    "crop 5 % a side": lambda image: cropped(image, 0.05),
    "brightness 1.2": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "contrast 0.8": lambda image: ImageEnhance.Contrast(image).enhance(0.8),
    "grey": lambda image: image.convert("L").convert("RGB"),
    "added text": captioned,
    "flip": ImageOps.mirror,
}
