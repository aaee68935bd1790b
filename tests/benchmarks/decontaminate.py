"""How many planted leaks are found, by kind and threshold, and what a pool of millions costs.

python tests/benchmarks/decontaminate.py planted --rows 44
python tests/benchmarks/decontaminate.py mini --size 6000
python tests/benchmarks/decontaminate.py images --samples 2600000
python tests/benchmarks/decontaminate.py texts --samples 2600000 --dir /tmp/decontaminate    # twice
"""

import argparse
import json
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from planted_leaks import (
    BENCHMARKS,
    LAYOUTS,
    PHOTOS,
    SUITE,
    Plant,
    full_pool,
    write_leaky_mirror,
    write_leaky_source,
)

from curation.decontaminate.find import KINDS, Leaks, Rules, find_leaks
from curation.decontaminate.pictures import ImageRule, match_pictures
from curation.decontaminate.questions import QuestionIndex, QuestionRule, search
from curation.decontaminate.targets import Pictures, read_targets
from curation.pool.ingest import Options, build_pool
from curation.pool.read import Pool
from evaluation.items import open_items

OWN = ImageRule()
IMAGE_RULES = {
    f"as shipped: {OWN.radius} bits, correlation {OWN.correlation}": OWN,
    "6 bits": replace(OWN, radius=6),
    "correlation 0.95": replace(OWN, correlation=0.95),
    "not only the nearest": replace(OWN, factor=1e9),
    "the hash alone, 6 bits": ImageRule(6, -1.0, 255.0, factor=1e9),
    f"the hash alone, {OWN.radius} bits": ImageRule(OWN.radius, -1.0, 255.0, factor=1e9),
}
QUESTION_RULES = {
    "as shipped: 8 words, share 0.5": QuestionRule(),
    "13 words": QuestionRule(n=13),
    "share 0.7": QuestionRule(share=0.7),
    "share 0.3": QuestionRule(share=0.3),
    "templates from 10 items on": QuestionRule(items=10),
    "no templates": QuestionRule(items=10**9, rows=10**9),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("planted", "mini", "images", "texts"))
    parser.add_argument("--rows", type=int, default=44, help="rows of a split of the planted mirror")
    parser.add_argument("--size", type=int, default=6000, help="samples of the mini world's pool")
    parser.add_argument("--samples", type=int, default=2_600_000)
    parser.add_argument("--dir", type=Path, help="keep the data here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = options.dir or Path(folder)
        {"planted": planted, "mini": mini, "images": images, "texts": texts}[options.what](root, options)


# ------------------------------------------------------------------------------------------------- planted


def planted(root: Path, options: argparse.Namespace) -> None:
    mirror = write_leaky_mirror(root / "mirror", rows=options.rows)
    opened = open_items(SUITE, mirror, only=BENCHMARKS)
    plants = write_leaky_source(opened, root / "source", clean=300)
    pool, targets = full_pool(root / "source", root / "pool"), read_targets(opened)
    print(f"{len(pool)} samples, {len(targets)} items, {len(targets.pictures)} images of items")
    for family, benchmarks in (("photographs", PHOTOS), ("one layout", LAYOUTS)):
        print(f"\nimages: {family}")
        for name, rule in IMAGE_RULES.items():
            leaks = find_leaks(pool, targets, Rules(rule, None))
            _print(name, leaks, [p for p in plants if p.kind in KINDS[:2]], benchmarks, KINDS[:2])
    print("\nquestions")
    for name, rule in QUESTION_RULES.items():
        leaks = find_leaks(pool, targets, Rules(None, rule))
        _print(name, leaks, [p for p in plants if p.asks], PHOTOS, ("question",))


def _print(
    name: str, leaks: Leaks, plants: Sequence[Plant], benchmarks: Sequence[str], kinds: Sequence[str]
) -> None:
    """Precision of the pairs, and recall of the plants by what was done to them."""
    own = [plant for plant in plants if plant.benchmark in benchmarks]
    truth = {(plant.id, plant.benchmark, plant.item): plant.how for plant in own}
    rows = [r for r in leaks.table.to_pylist() if r["benchmark"] in benchmarks and r["kind"] in kinds]
    found = {(r["id"], r["benchmark"], r["item"]) for r in rows}
    right = Counter(truth[key] for key in found & truth.keys())
    every = Counter(truth.values())
    precision = len(found & truth.keys()) / max(len(found), 1)
    recall = ", ".join(f"{how} {right[how]}/{n}" for how, n in every.items())
    print(f"  {name}: precision {precision:.3f} ({len(found)} pairs); {recall}")


# ---------------------------------------------------------------------------------------------------- mini


def mini(root: Path, options: argparse.Namespace) -> None:
    from curation.mini.bench import build_bench
    from curation.mini.pool import build_source

    build_bench(root / "bench", items=300)
    build_source(root / "source", options.size, bench=root / "bench")
    pool = full_pool(root / "source", root / "pool")
    start = time.process_time()
    targets = read_targets(open_items("mini", root / "bench"))
    middle = time.process_time()
    leaks = find_leaks(pool, targets)
    print(f"CPU seconds: {middle - start:.1f} for {len(targets)} items, {time.process_time() - middle:.1f}")
    planted = pq.read_table(root / "source" / "truth.parquet", columns=["id", "leak"]).to_pylist()
    truth = {row["id"] for row in planted if row["leak"]}
    ids = pool.table["id"].to_pylist()
    for kinds in (("image_exact",), ("image_near",), ("question",), KINDS[:2]):
        found = {ids[row] for row in leaks.rows(kinds)}
        right = len(found & truth)
        print(f"{'+'.join(kinds)}: {len(found)} samples, {right} of {len(truth)} planted leaks")
    print(json.dumps(leaks.summary["by_kind"]), json.dumps(leaks.summary["questions"]))


# --------------------------------------------------------------------------------------------------- scale


class Hashed:
    """A pool of random hashes: nothing is decoded but chance candidates, whose files do not exist."""

    def __init__(self, images: int, copies: pa.Array, hashes: np.ndarray) -> None:
        rng = np.random.default_rng(1)
        files = _random_binary(rng, images)
        phash = rng.integers(0, 2**64, images, np.uint64)
        n = len(copies)
        files = pa.concat_arrays([copies, files.slice(n)])
        phash[:n] = hashes
        self.folder = self.images = Path("none")
        self.image_table = pa.table(
            {
                "path": pa.array([f"{k}.jpg" for k in range(images)]),
                "bytes_hash": files,
                "phash": phash,
                "reason": pa.nulls(images, pa.string()),
            }
        )
        lists = pa.ListArray.from_arrays(
            np.arange(images + 1, dtype=np.int32), np.arange(images, dtype=np.int32)
        )
        self.table = pa.table({"image_ids": lists})


def _random_binary(rng: np.random.Generator, n: int) -> pa.Array:
    return pa.Array.from_buffers(pa.binary(16), n, [None, pa.py_buffer(rng.bytes(16 * n))])


ITEMS, PICTURES, COPIES = 29_067, 25_000, 1000
"""Questions of mm14, and about its images; items that are planted."""


def images(_: Path, options: argparse.Namespace) -> None:
    """The search by hashes, without the decoding that real near copies need."""
    rng = np.random.default_rng(0)
    held = Pictures(
        _random_binary(rng, PICTURES),
        _random_binary(rng, PICTURES),
        rng.integers(0, 2**64, PICTURES, np.uint64),
        rng.integers(0, 256, (PICTURES, 32, 32, 3), np.uint8),
        np.zeros(PICTURES, np.bool_),
        np.stack([np.arange(ITEMS), np.arange(ITEMS) % PICTURES], axis=1),
    )
    pool = Hashed(options.samples, held.file.slice(0, COPIES), held.phash[:COPIES])
    _say("start", 0.0)
    start = time.process_time()
    matches = match_pictures(pool, held, ImageRule())
    _say(f"{options.samples:,} images: {len(matches.image)} of {COPIES} copies", start)


def texts(root: Path, options: argparse.Namespace) -> None:
    """The search by words. The second run has the pool already, so that its peak is that of the search."""
    words = random.Random(0)
    vocabulary = [
        "".join(words.choices("abcdefghijklmnoprstuvw", k=words.randint(2, 9))) for _ in range(8000)
    ]

    def question() -> str:
        return " ".join(words.choices(vocabulary, k=max(int(words.lognormvariate(2.6, 0.6)), 2)))

    asked = [question() for _ in range(ITEMS)]
    root.mkdir(parents=True, exist_ok=True)
    if not (root / "pool" / "pool.json").exists():
        _write_texts(root / "pool.jsonl", options.samples, asked[:COPIES], question, words)
        build_pool(root / "pool.jsonl", root, root / "pool", options=Options())
    pool = Pool.open(root / "pool")
    _say("pool open", 0.0)
    start = time.process_time()
    index = QuestionIndex(asked, list(range(ITEMS)), QuestionRule())
    _say(f"index of {ITEMS:,} questions, {len(index.grams):,} n-grams", start)
    start = time.process_time()
    found = search(pool, index, QuestionRule())
    long = int((index.words[index.of_item[:COPIES]] >= 8).sum())
    _say(f"{len(pool):,} samples: {len(found.row)} questions found, {long} long ones copied", start)


def _write_texts(path: Path, n: int, asked: Sequence[str], question: Any, rng: random.Random) -> None:
    """Three turns a sample of one of 20,000 bodies; some first ones ask an item's question."""
    bodies = [[(question(), "An answer of some words.") for _ in range(3)] for _ in range(20_000)]
    with path.open("w") as file:
        for k in range(n):
            turns = [(f"{k} {q}", a) for q, a in rng.choice(bodies)]
            if k < len(asked):
                turns[0] = (asked[k], "An answer.")
            file.write(json.dumps({"id": str(k), "conversations": list(_turns(turns))}) + "\n")


def _turns(turns: Iterable[tuple[str, str]]) -> Iterable[dict[str, str]]:
    for asked, answer in turns:
        yield {"from": "human", "value": asked}
        yield {"from": "gpt", "value": answer}


def _say(what: str, start: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{what}: {time.process_time() - start:.1f} CPU s, peak {peak:,.0f} MB", flush=True)


if __name__ == "__main__":
    main()
