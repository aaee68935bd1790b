"""A pool of every kind of sample that an export must hold, and subsets of it."""

import json

import numpy as np
import pyarrow as pa
from PIL import Image

from curation.pool.ingest import build_pool
from curation.pool.read import Pool
from curation.selectors.contract import Selection
from curation.subset import write_subset

CHOSEN = [5, 0, 3, 2, 7, 1]
"""Rows in rank order: not the order of the file."""


def record(number, images=(), **more):
    """A LLaVA record of two turns with non-ASCII text, and every placeholder in the first question."""
    question = "".join("<image>\n" for _ in images) + f"Où est le nº {number} ?"
    spoken = [question, f"« là-bas » {number} 🙂", "and ?", f"answer {number} | <b>"]
    turns = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(spoken)]
    held = {"image": images[0] if len(images) == 1 else list(images)} if images else {}
    return {"id": f"s{number}", **held, "conversations": turns, "source": f"src{number % 2}"} | more


def write_images(folder):
    """A JPEG, a PNG with alpha, a WebP, and a JPEG under a name without suffix."""
    (folder / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    pixels = [Image.fromarray(rng.integers(0, 255, (24, 32, 3), np.uint8)) for _ in range(4)]
    pixels[0].save(folder / "deep" / "a.jpg")
    pixels[1].convert("RGBA").save(folder / "b.png")
    pixels[2].save(folder / "c.webp", lossless=True)
    pixels[3].save(folder / "deep" / "none", format="JPEG")


SYSTEM = {"from": "system", "value": "be short"}
RECORDS = [
    record(0, ["deep/a.jpg"]),
    record(1, ["b.png", "c.webp", "deep/a.jpg"]),
    record(2),
    record(3, ["deep/none"]),
    record(4, ["b.png"]),
    record(5, ["c.webp"], conversations=[SYSTEM, *record(5, ["c.webp"])["conversations"]]),
    record(6, ["deep/a.jpg"]),
    record(7, ["deep/a.jpg", "deep/none"]),
]


def build_world(folder):
    """Fill a folder with source/data.json, source/images, pool and subset (rows `CHOSEN`, with a reason)."""
    source = folder / "source"
    write_images(source / "images")
    text = "[\n" + ",\n".join(json.dumps(r, ensure_ascii=r["id"] == "s3") for r in RECORDS) + "\n]\n"
    (source / "data.json").write_text(text)
    build_pool(source / "data.json", source / "images", folder / "pool")
    choose(folder / "pool", CHOSEN, folder / "subset")
    return folder


def choose(pool, rows, out, **more):
    """Write a subset of these rows, with the reason that a selector would give."""
    opened = Pool.open(pool)
    reason = pa.table({"why": [f"reason {row}" for row in rows], "source": ["x"] * len(rows)})
    selection = Selection(np.array(rows, np.int64), reason)
    fields = {"selector": "random", "params": {}, "seed": 0} | more
    return write_subset(out, opened.table, opened.hash, selection, **fields)


def contents(folder):
    """The bytes of every file below a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
