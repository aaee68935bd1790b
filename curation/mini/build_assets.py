"""Rebuild the mini world's shipped assets from the packages that they come from.

    npm pack @lobehub/fluent-emoji-flat@1.1.0 emoji-datasource-google@16.0.0
    npm pack emoji-datasource-twitter@16.0.0 flag-icons@7.5.0
    pip install winnow[mini-assets]
    python -m curation.mini.build_assets --packages DIR   # DIR holds the .tgz files

Writes `assets/`: sprites.webp (48 px cells, all art styles), flags.webp, glyphs.png, digits.png,
photos/*.jpg, tables.json and index.json (the order of the sprites, flags and digits). Licences and
attribution: assets/NOTICE.md.
"""

import argparse
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import yaml
from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).parent
ASSETS = HERE / "assets"
SPRITE, FLAG, GLYPH, COLUMNS = 48, (48, 36), 24, 24
FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSerif-Italic",
    "STIXGeneral",
    "STIXGeneralBol",
)
CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-x="
TABLE_ROWS = 4


class Package:
    """One npm tarball, read without unpacking."""

    def __init__(self, directory: Path, prefix: str) -> None:
        tarballs = sorted(directory.glob(f"{prefix}*.tgz"))
        if not tarballs:
            raise FileNotFoundError(f"no {prefix}*.tgz in {directory}: fetch it with `npm pack` (see --help)")
        self.tar = tarfile.open(tarballs[0])
        self.members = {m.name.removeprefix("package/"): m for m in self.tar.getmembers()}

    def read(self, *names: str) -> bytes:
        """Bytes of the first of `names` that exists; FileNotFoundError if none does."""
        for name in names:
            if name in self.members:
                file = self.tar.extractfile(self.members[name])
                assert file is not None, f"{name} is not a regular file"
                return file.read()
        raise FileNotFoundError(f"{self.tar.name!r} holds none of {', '.join(names)}")


def rasterise(svg: bytes, width: int, height: int) -> Image.Image:
    """SVG bytes -> RGBA image of exactly `width` x `height` pixels."""
    import resvg_py

    png = bytes(resvg_py.svg_to_bytes(svg_string=svg.decode(), width=width * 4, height=height * 4))
    return Image.open(io.BytesIO(png)).convert("RGBA").resize((width, height), Image.Resampling.LANCZOS)


def emoji(code: str, fluent: Package, google: Package, twitter: Package) -> list[Image.Image]:
    """The three art styles of one emoji, each SPRITE x SPRITE RGBA."""
    short = code.removesuffix("-fe0f")
    flat = rasterise(
        fluent.read(f"assets/{code}.svg", f"assets/{short}.svg", f"assets/{short}-fe0f.svg"), SPRITE, SPRITE
    )
    images = [flat]
    for name, package in (("google", google), ("twitter", twitter)):
        data = package.read(
            f"img/{name}/64/{code}.png", f"img/{name}/64/{short}.png", f"img/{name}/64/{short}-fe0f.png"
        )
        images.append(
            Image.open(io.BytesIO(data)).convert("RGBA").resize((SPRITE, SPRITE), Image.Resampling.LANCZOS)
        )
    return images


def sheet(images: list[Image.Image], size: tuple[int, int], columns: int = COLUMNS) -> Image.Image:
    """Lay out images of equal size in rows of `columns`."""
    rows = -(-len(images) // columns)
    out = Image.new(images[0].mode, (columns * size[0], rows * size[1]))
    for i, image in enumerate(images):
        out.paste(image, ((i % columns) * size[0], (i // columns) * size[1]))
    return out


def glyphs() -> Image.Image:
    """Every character in every font as a GLYPH x GLYPH grey mask; one row of the sheet per font."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    out = Image.new("L", (len(CHARACTERS) * GLYPH, len(FONTS) * GLYPH))
    for row, name in enumerate(FONTS):
        font = ImageFont.truetype(str(folder / f"{name}.ttf"), GLYPH - 2)
        for column, character in enumerate(CHARACTERS):
            cell = Image.new("L", (GLYPH, GLYPH))
            ImageDraw.Draw(cell).text((GLYPH // 2, GLYPH // 2), character, fill=255, font=font, anchor="mm")
            out.paste(cell, (column * GLYPH, row * GLYPH))
    return out


def digits() -> tuple[Image.Image, list[int]]:
    """The 1,797 real handwritten digits (8 x 8, grey) in rows of 48, with their labels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = [Image.fromarray(np.clip(d * 16, 0, 255).astype("uint8")) for d in data.images]
    return sheet(images, (8, 8), 48), [int(t) for t in data.target]


def photos(files: dict[str, str]) -> None:
    """Shrink the bundled photos to 192 px on the shorter side and save them as JPEG."""
    import skimage.data
    import sklearn.datasets

    folders = (Path(skimage.data.__file__).parent, Path(sklearn.datasets.__file__).parent / "images")
    (ASSETS / "photos").mkdir(parents=True, exist_ok=True)
    for scene, name in files.items():
        path = next(folder / name for folder in folders if (folder / name).exists())
        image = Image.open(path).convert("RGB")
        scale = 192 / min(image.size)
        image.resize(
            (round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS
        ).save(ASSETS / "photos" / f"{scene}.jpg", quality=88)


def tables() -> list[dict]:
    """Small real tables (four rows of label and value) cut from vega-datasets."""
    from vega_datasets import local_data

    cars, wheat, jobs = local_data.cars(), local_data.wheat(), local_data.us_employment()
    weather, stocks, barley = local_data.seattle_weather(), local_data.stocks(), local_data.barley()
    series = {
        "miles per gallon": cars.groupby("Year")["Miles_per_Gallon"].mean(),
        "horsepower": cars.groupby("Year")["Horsepower"].mean(),
        "weight": cars.groupby("Cylinders")["Weight_in_lbs"].mean(),
        "wheat price": wheat.set_index("year")["wheat"],
        "rain": weather.groupby(weather["date"].dt.month)["precipitation"].mean(),
        "heat": weather.groupby(weather["date"].dt.month)["temp_max"].mean(),
        "wind": weather.groupby(weather["date"].dt.month)["wind"].mean(),
        "stock": stocks.groupby(["symbol", stocks["date"].dt.year])["price"].mean(),
        "barley": barley.groupby(["site", "year"])["yield"].mean(),
    }
    series |= {
        column: jobs[column].iloc[::6]
        for column in ("construction", "manufacturing", "government", "information")
    }
    out = []
    for title, values in series.items():
        numbers = [float(v) for v in values.dropna()]
        out += [
            {"title": title, "values": [round(v, 2) for v in numbers[i : i + TABLE_ROWS]]}
            for i in range(0, len(numbers) - TABLE_ROWS + 1, TABLE_ROWS)
        ]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--packages", type=Path, required=True)
    directory = parser.parse_args().packages
    names = yaml.safe_load((HERE / "names.yaml").read_text())
    fluent, google, twitter = (
        Package(directory, p) for p in ("lobehub", "emoji-datasource-google", "emoji-datasource-twitter")
    )
    flags = Package(directory, "flag-icons")

    sprites, order = [], []
    for kind in ("common", "cause", "fine", "activity"):
        for group in names[kind].values():
            for name, code in group.items():
                sprites += emoji(str(code), fluent, google, twitter)
                order.append(name)
    sheet(sprites, (SPRITE, SPRITE)).save(ASSETS / "sprites.webp", quality=90, method=6, exact=True)

    facts = {c["code"]: c for c in json.loads(flags.read("country.json"))}
    images = [
        rasterise(flags.read(f"flags/4x3/{code}.svg"), *FLAG).convert("RGB") for code in names["countries"]
    ]
    sheet(images, FLAG, 12).save(ASSETS / "flags.webp", quality=90, method=6)
    glyphs().save(ASSETS / "glyphs.png", optimize=True)
    picture, labels = digits()
    picture.save(ASSETS / "digits.png", optimize=True)
    photos(names["photos"])
    (ASSETS / "tables.json").write_text(json.dumps(tables()))
    index = {
        "sprites": order,
        "flags": [
            {k: facts[c][k] for k in ("code", "name", "capital", "continent")} for c in names["countries"]
        ],
        "digits": labels,
    }
    (ASSETS / "index.json").write_text(json.dumps(index))
    print(f"{len(order)} sprites x 3 styles, {len(images)} flags, {len(labels)} digits -> {ASSETS}")


if __name__ == "__main__":
    main()
