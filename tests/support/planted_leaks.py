"""A mirror and a pool with planted leaks: which sample is which item, and what was done to it.

    mirror = write_leaky_mirror(tmp_path / "mirror")
    plants = write_leaky_source(open_items(SUITE, mirror, only=BENCHMARKS), tmp_path / "source")

Of the mirror's benchmarks, ChartQA and DocVQA get tiles of photographs and long questions; the others keep
the made-up pictures, which are all of one layout and thus the hardest to tell apart.
"""

import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from benchmark_mirror import write_mirror
from benchmark_rows import Draw
from PIL import Image, ImageEnhance

from curation.pool.ingest import Options, build_pool
from curation.pool.read import Pool
from evaluation.items import OpenedItems

SUITE = "mm14"
PHOTOS, LAYOUTS = ("chartqa", "docvqa"), ("mmstar", "mmt", "ai2d")
BENCHMARKS = (*PHOTOS, *LAYOUTS)
_REPOSITORIES = {"chartqa": "lmms-lab-encoder/ChartQA", "docvqa": "lmms-lab-encoder/DocVQA"}
_FILES = {"chartqa": "data/test-*", "docvqa": "DocVQA/validation-*"}
_NOUNS = """
bakery harbour ladder orchard teapot violin lantern bridge saddle anchor kettle compass pillow garage
wagon bottle carpet chimney curtain basket feather gravel hammer island jacket kitchen locker mirror
needle outlet pocket quarry ribbon shovel tunnel umbrella valley whistle cellar drawer engine fountain
glacier helmet
""".split()
_PLACES = """
corner shelf window staircase courtyard platform counter balcony hallway garden stage roof meadow pier
cabin gallery bench fence market tower studio
""".split()
_DEEDS = """
painted repaired borrowed photographed wrapped polished counted hidden carried weighed measured folded
lifted cleaned mended traded rented sketched
""".split()
TEMPLATE = "What is shown in the image? Answer the question using a single word or phrase."


def _file(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _cropped(image: Image.Image, share: float) -> Image.Image:
    width, height = image.size
    left, top = max(round(width * share), 1), max(round(height * share), 1)
    return image.crop((left, top, width - left, height - top))


def _half(image: Image.Image) -> Image.Image:
    return image.resize((max(image.width // 2, 8), max(image.height // 2, 8)), Image.Resampling.LANCZOS)


IMAGES: dict[str, tuple[str, Callable[[Image.Image], bytes] | None]] = {
    "same file": ("image_exact", None),
    "PNG of it": ("image_exact", lambda image: _file(image, "PNG")),
    "JPEG quality 75": ("image_near", lambda image: _file(image, "JPEG", quality=75)),
    "JPEG quality 30": ("image_near", lambda image: _file(image, "JPEG", quality=30)),
    "half the size": ("image_near", lambda image: _file(_half(image), "PNG")),
    "20 % brighter": (
        "image_near",
        lambda image: _file(ImageEnhance.Brightness(image).enhance(1.2), "PNG"),
    ),
    "1 % of each side cut off": ("image_near", lambda image: _file(_cropped(image, 0.01), "PNG")),
    "5 % of each side cut off": ("image_near", lambda image: _file(_cropped(image, 0.05), "PNG")),
    "grey": ("image_near", lambda image: _file(image.convert("L"), "PNG")),
}
"""What is done to an item's image: the kind of leak that it is, and the new file (None: the item's own)."""


def _reworded(words: list[str]) -> list[str]:
    """One word in the middle is another."""
    middle = len(words) // 2
    return [*words[:middle], "particular", *words[middle + 1 :]]


def _paraphrased(words: list[str]) -> list[str]:
    """The two halves have changed places, and every fifth word is another."""
    turned = words[len(words) // 2 :] + words[: len(words) // 2]
    return ["indeed" if k % 5 == 2 else word for k, word in enumerate(turned)]


QUESTIONS: dict[str, Callable[[list[str]], list[str]]] = {
    "copied": list,
    "inside another text": lambda words: ["Look", "closely.", *words, "Answer", "in", "one", "word."],
    "one word changed": _reworded,
    "paraphrased": _paraphrased,
}
"""What is done to an item's question, in words."""


@dataclass(frozen=True)
class Plant:
    """Sample `id` is an item: by its image or by its question (`kind`), changed as `how` says.

    "alike": it asks the question about another image.

    `asks`: whether the sample asks the item's question.
    """

    id: str
    benchmark: str
    item: str
    kind: str
    how: str
    asks: bool


def tiles() -> list[Image.Image]:
    """Tiles of the mini world's photographs, up to 16 of each, in a fixed order.

    Those of plain sky are left out: noise alone makes up their perceptual hashes.
    """
    import numpy as np

    import curation.mini

    found = []
    for file in sorted((Path(curation.mini.__file__).parent / "assets" / "photos").iterdir()):
        photo = Image.open(file).convert("RGB")
        width, height = photo.width // 4, photo.height // 4
        found += [
            photo.crop((x * width, y * height, (x + 1) * width, (y + 1) * height)).resize((192, 160))
            for y in range(4)
            for x in range(4)
        ]
    return [tile for tile in found if np.asarray(tile).std(axis=(0, 1)).max() > 12]


def _long(rng: random.Random) -> str:
    """A question of 18 words; it is rare that two draws share 8 words in a row."""
    a, b, c, d = rng.sample(_NOUNS, 4)
    place, other = rng.sample(_PLACES, 2)
    deed, done = rng.sample(_DEEDS, 2)
    return f"Which {a} near the {place} was {deed} before the {b} and {c} were {done} beside {other} or {d}?"


def write_leaky_mirror(folder: Path, *, rows: int = 24, seed: int = 0) -> Path:
    """Every repository of `BENCHMARKS`; every second tile of the photographs is an image of an item."""
    from evaluation.suite import load_suite

    suite = load_suite(SUITE).only(BENCHMARKS)
    write_mirror(folder, rows=rows, repositories={str(benchmark.data.repo) for benchmark in suite})
    rng, pictures = random.Random(seed), tiles()[::2]
    rng.shuffle(pictures)
    for name in PHOTOS:
        [file] = sorted((folder / _REPOSITORIES[name]).glob(_FILES[name]))
        table = pq.read_table(file)
        files = [_file(pictures.pop(), "JPEG", quality=92) for _ in range(len(table))]
        table = _with(table, "image", [{"bytes": file, "path": None} for file in files])
        table = _with(table, "question", [_long(rng) for _ in files])
        pq.write_table(table, file)
    return folder


def _with(table: pa.Table, column: str, values: list[Any]) -> pa.Table:
    field = table.schema.field(column)
    return table.set_column(table.schema.get_field_index(column), field, pa.array(values, field.type))


class _Source:
    """Writes images and records of a LLaVA file."""

    def __init__(self, out: Path) -> None:
        self.out, self.records = out, []
        (out / "images").mkdir(parents=True, exist_ok=True)

    def add(self, image: bytes | None, question: str, source: str) -> str:
        id = f"{source}-{len(self.records):05d}"
        record: dict[str, Any] = {"id": id, "source": source}
        if image:
            (self.out / "images" / f"{id}.img").write_bytes(image)
            record["image"], question = f"images/{id}.img", f"<image>\n{question}"
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": "A fine answer."}]
        self.records.append({**record, "conversations": turns})
        return id

    def write(self) -> Path:
        path = self.out / "pool.json"
        path.write_text(json.dumps(self.records), encoding="utf-8")
        return path


def write_leaky_source(opened: OpenedItems, out: Path, *, clean: int = 60, seed: int = 0) -> list[Plant]:
    """Write pool.json and images/: every item once with each change of its image or its question in turn.

    clean: samples of no item, with other tiles, other made-up pictures, other long questions and a template.
    Sources: `leaked` and `clean`.
    """
    rng, source = random.Random(f"source {seed}"), _Source(out)
    plants: list[Plant] = []
    others = [_file(tile, "JPEG", quality=92) for tile in tiles()[1::2]]
    drawn = Draw("clean")
    for name, items in opened.benchmarks.items():
        for item in range(len(items)):
            # in turn: its image with its question, its image with another one, its question alone
            turn, how = item % 3, list(IMAGES)[item // 3 % len(IMAGES)]
            if turn < 2 or name not in PHOTOS:
                kind, change = IMAGES[how]
                [file] = items.images(item)
                own = Image.open(io.BytesIO(file)).convert("RGB")
                question = items.questions[item] if turn == 0 else TEMPLATE
                id = source.add(change(own) if change else file, question, "leaked")
                plants.append(Plant(id, name, items.ids[item], kind, how, turn == 0))
            else:
                how = list(QUESTIONS)[item // 3 % len(QUESTIONS)]
                words = QUESTIONS[how](items.questions[item].split())
                image = None if item // 12 % 2 else rng.choice(others)
                id = source.add(image, " ".join(words), "leaked")
                kind = "alike" if image else "question"
                plants.append(Plant(id, name, items.ids[item], kind, how, True))
    for k in range(clean):
        image = rng.choice(others) if k % 2 else drawn.picture()["bytes"]
        source.add(image, _long(rng) if k % 3 else TEMPLATE, "clean")
    source.add(
        None, "Write a short text about a lighthouse and the keeper who lives in it all year.", "clean"
    )
    source.write()
    return plants


def full_pool(source: Path, out: Path) -> Pool:
    """The pool of `source`/pool.json, every image decoded and hashed."""
    build_pool(source / "pool.json", source, out, options=Options(audit="full"), workers=0)
    return Pool.open(out)
