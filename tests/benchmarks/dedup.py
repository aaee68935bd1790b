"""Copies in a pool: how exact the search is, and what it costs at the size of the largest pools.

OMP_NUM_THREADS=1 python tests/benchmarks/dedup.py pictures            # recall by change, errors by kind
OMP_NUM_THREADS=1 python tests/benchmarks/dedup.py mini --size 6000    # the mini world's planted near copies
OMP_NUM_THREADS=1 python tests/benchmarks/dedup.py hamming --rows 2600000 --radius 8
OMP_NUM_THREADS=1 python tests/benchmarks/dedup.py hamming --rows 300000 --against faiss
OMP_NUM_THREADS=1 python tests/benchmarks/dedup.py pool --rows 300000 --workers 0

`hamming` draws hashes: `uniform` ones; and a `pool` of 10 % flat pictures of one hash, 25 % in 50 families
of documents and screenshots (each bit of the family's hash turned with probability 0.15), 10 % copies (0.02),
the rest uniform. Every pair within the radius is found by construction: recall is tested, not measured.

`pool` builds a pool of LLaVA's proportions (three questions about each picture, 14 % text alone, 10 % copies
with a word changed, 1 % equal records; hashes drawn as for `hamming`, all of one file) and runs the whole
search on it. Times are CPU seconds of this process and its children.
"""

import argparse
import json
import random
import resource
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from curation.dedup import hamming, pictures  # noqa: E402  (the path of the repository has to be set first)
from curation.dedup.clusters import Rule  # noqa: E402
from curation.dedup.find import find_duplicates  # noqa: E402
from curation.pool.phash import phash  # noqa: E402
from curation.pool.read import Pool  # noqa: E402

RADII = (4, 6, 8, 10)


def cpu_seconds() -> float:
    """CPU time of this process and its finished children."""
    return sum(
        resource.getrusage(who).ru_utime + resource.getrusage(who).ru_stime
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )


def peak_gb() -> float:
    """Largest memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def measure_pictures(options: argparse.Namespace) -> None:
    """Recall of changed pictures and rate of confused look-alikes, by hash alone and with the second look."""
    from picture_kinds import CHANGES, KINDS, picture

    rule = Rule()
    print(
        f"{options.size} pictures of each kind; hashes within {rule.radius} bits, then tiles >= {rule.same}"
    )
    pairs = [f"pairs <= {radius}" for radius in RADII]
    print(f"| kind | {' | '.join([*pairs, 'of these, and tiles', *CHANGES])} |")
    print("| :-- |" + " --: |" * (len(RADII) + 1 + len(CHANGES)))
    for kind in KINDS:
        images = [picture(kind, number) for number in range(options.size)]
        hashes = np.array([phash(image) for image in images], np.uint64)
        small = [pictures.shrunk(image) for image in images]
        i, j = np.triu_indices(len(images), 1)
        distance = hamming.distances(hashes[i], hashes[j])
        rates = [f"{(distance <= radius).mean():.2%}" for radius in RADII]
        near = np.flatnonzero(distance <= rule.radius)
        near = near[~pictures.is_flat(hashes[i[near]])]
        confused = sum(pictures.agreement(small[i[p]], small[j[p]]) >= rule.same for p in near)
        cells = [f"{confused / len(distance):.2%} ({confused} of {len(near)})"]
        for change in CHANGES.values():
            changed = [change(image) for image in images]
            found = np.array([phash(image) for image in changed], np.uint64)
            close = (hamming.distances(hashes, found) <= rule.radius) & ~pictures.is_flat(hashes)
            both = [
                bool(close[n]) and pictures.agreement(small[n], pictures.shrunk(changed[n])) >= rule.same
                for n in range(len(images))
            ]
            cells.append(f"{close.mean():.2f} / {np.mean(both):.2f}")
        print(f"| {kind} | {' | '.join([*rates, *cells])} |", flush=True)


def measure_mini(options: argparse.Namespace) -> None:
    """Precision and recall of pairs against the generator's record: samples of one root are copies."""
    from curation.mini.pool import build_source
    from curation.pool.ingest import Options, build_pool

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        build_source(out, options.size)
        build_pool(out / "pool.json", out, out / "pool", options=Options(audit="full"), workers=0)
        pool = Pool.open(out / "pool")
        truth = pq.read_table(out / "truth.parquet", columns=["id", "root"])
        root_of = dict(zip(truth["id"].to_pylist(), truth["root"].to_pylist(), strict=True))
        root = np.array([root_of[id] for id in pool.table["id"].to_pylist()])
        drawn = pool.table["n_images"].to_numpy() > 0
        print(f"{len(pool):,} samples, {_pairs(root):,} pairs of one root,", end=" ")
        print(f"{_pairs(root[drawn]):,} with a picture")
        print("| rule | pairs found | precision | recall | with a picture: precision | recall |")
        print("| :-- | --: | --: | --: | --: | --: |")
        rules = {"default": Rule()}
        rules |= {f"alike {bits}": Rule(images="alike", alike=bits) for bits in (8, 14, 20)}
        for name, rule in rules.items():
            group = find_duplicates(pool, rule, workers=options.workers).group
            cells = [f"{_pairs(group):,}", *_agreement(group, root), *_agreement(group[drawn], root[drawn])]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


def _pairs(labels: np.ndarray) -> int:
    """How many pairs have the same label."""
    counts = np.unique(labels, return_counts=True)[1].astype(np.int64)
    return int((counts * (counts - 1) // 2).sum())


def _agreement(group: np.ndarray, root: np.ndarray) -> tuple[str, str]:
    both = _pairs(np.unique(np.stack([group, root]), axis=1, return_inverse=True)[1])
    return f"{both / max(_pairs(group), 1):.3f}", f"{both / max(_pairs(root), 1):.3f}"


def drawn_hashes(rng: np.random.Generator, rows: int, kind: str) -> np.ndarray:
    """uint64[rows], as described above."""
    hashes = rng.integers(0, 1 << 64, rows, dtype=np.uint64)
    if kind == "uniform":
        return hashes
    flat, families = rows // 10, rows // 4
    hashes[:flat] = 1 << 63
    centres = rng.integers(0, 1 << 64, 50, dtype=np.uint64)
    hashes[flat : flat + families] = rng.choice(centres, families) ^ turned(rng, families, 0.15)
    copies = rows // 10
    hashes[-copies:] = rng.choice(hashes[flat:-copies], copies) ^ turned(rng, copies, 0.02)
    return hashes


def turned(rng: np.random.Generator, rows: int, share: float) -> np.ndarray:
    """uint64[rows]: each bit set with probability `share`."""
    bits = np.zeros(rows, np.uint64)
    for bit in range(64):
        bits |= (rng.random(rows, np.float32) < share).astype(np.uint64) << np.uint64(bit)
    return bits


def measure_hamming(options: argparse.Namespace) -> None:
    """All pairs of distinct hashes within the radius; with `--against`, another search of the same."""
    for kind in ("uniform", "pool"):
        hashes = drawn_hashes(np.random.default_rng(0), options.rows, kind)
        start = cpu_seconds()
        values = hamming.distinct(hashes).values
        i, _, _ = hamming.distinct_pairs(values, None, options.radius)
        print(
            f"{kind}, {options.rows:,} rows, radius {options.radius}: {len(i):,} pairs of {len(values):,} "
            f"distinct hashes, {cpu_seconds() - start:.1f} CPU s, peak {peak_gb():.2f} GB",
            flush=True,
        )
        if options.against:
            start = cpu_seconds()
            found = OTHERS[options.against](values, options.radius)
            print(f"  {options.against}: {found:,} pairs, {cpu_seconds() - start:.1f} CPU s", flush=True)


def by_faiss(values: np.ndarray, radius: int) -> int:
    """Pairs by faiss.IndexBinaryFlat: every hash with every other."""
    import faiss

    index = faiss.IndexBinaryFlat(64)
    return _pairs_of_index(index, values, radius)


def by_faiss_hash(values: np.ndarray, radius: int) -> int:
    """Pairs by faiss.IndexBinaryMultiHash: four tables of 16 bits, probed to a quarter of the radius."""
    import faiss

    index = faiss.IndexBinaryMultiHash(64, 4, 16)
    index.nflip = radius // 4
    return _pairs_of_index(index, values, radius)


def _pairs_of_index(index: Any, values: np.ndarray, radius: int) -> int:
    codes = values.view(np.uint8).reshape(-1, 8)
    index.add(codes)
    found = 0
    for start in range(0, len(codes), 1 << 14):
        limits, _, _ = index.range_search(codes[start : start + (1 << 14)], radius + 1)
        found += int(limits[-1])
    return (found - len(codes)) // 2


def by_numba(values: np.ndarray, radius: int) -> int:
    """Pairs by a compiled loop over all with all."""
    import numba

    @numba.njit
    def count(values: np.ndarray, radius: int) -> int:
        found = 0
        for i in range(len(values)):
            for j in range(i + 1, len(values)):
                x = values[i] ^ values[j]
                x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
                x = (x & np.uint64(0x3333333333333333)) + (
                    (x >> np.uint64(2)) & np.uint64(0x3333333333333333)
                )
                x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
                found += ((x * np.uint64(0x0101010101010101)) >> np.uint64(56)) <= np.uint64(radius)
        return found

    count(values[:10], radius)
    return int(count(values, radius))


OTHERS = {"faiss": by_faiss, "faiss_hash": by_faiss_hash, "numba": by_numba}


def measure_pool(options: argparse.Namespace) -> None:
    """The whole search on a generated pool."""
    with tempfile.TemporaryDirectory() as name:
        pool = drawn_pool(Path(name), options.rows)
        print(f"{len(pool):,} samples, peak {peak_gb():.2f} GB so far", flush=True)
        ended: dict[str, float] = {}

        def steps(step: str) -> Callable[[int, int], None]:
            return lambda done, total: ended.__setitem__(step, cpu_seconds())

        start = cpu_seconds()
        found = find_duplicates(pool, Rule(images=options.images), workers=options.workers, steps=steps)
        total = cpu_seconds() - start
        told = Counter(kind for kind in found.table["dup_kind"].to_pylist() if kind)
        print(f"all: {total:.1f} CPU s, {total / len(pool) * 1e6:.0f} us a sample; until the texts were read "
              f"{ended['read texts'] - start:.1f}; peak {peak_gb():.2f} GB; {dict(told)}")  # fmt: skip


def drawn_pool(folder: Path, rows: int) -> Pool:
    """A pool whose records are text; its images are a table of drawn hashes, all of one file."""
    from PIL import Image

    from curation.pool.image_audit import IMAGE_SCHEMA
    from curation.pool.ingest import build_pool

    rng = np.random.default_rng(0)
    image_of = write_records(folder / "records.jsonl", rows)
    Image.new("RGB", (64, 64), "white").save(folder / "one.png")
    build_pool(folder / "records.jsonl", folder, folder / "pool", max_bad_fraction=1.0)
    count = int(image_of.max()) + 1
    hashes = drawn_hashes(rng, count, "pool")
    constant = {"path": "one.png", "bytes": 200, "width": 640, "height": 480, "mode": "RGB", "format": "PNG"}
    same = pa.array(np.zeros(count, np.int8))
    columns = {name: pa.array([value]).take(same) for name, value in constant.items()}
    columns["image"] = pa.array(np.arange(count, dtype=np.int32))
    columns["bytes_hash"] = pa.array([number.to_bytes(16) for number in range(count)], pa.binary(16))
    columns["phash"] = pa.array(hashes)
    columns |= {name: pa.nulls(count) for name in IMAGE_SCHEMA.names if name not in columns}
    images = pa.table({name: columns[name] for name in IMAGE_SCHEMA.names}).cast(IMAGE_SCHEMA)
    pq.write_table(images, folder / "pool" / "images.parquet")
    table = pq.read_table(folder / "pool" / "pool.parquet")
    kept = image_of[table["index"].to_numpy()]
    offsets = pa.array(np.append(0, np.cumsum(kept >= 0)).astype(np.int32))
    ids = pa.ListArray.from_arrays(offsets, pa.array(kept[kept >= 0].astype(np.int32)))
    table = table.set_column(table.schema.get_field_index("image_ids"), "image_ids", ids)
    pq.write_table(table, folder / "pool" / "pool.parquet")
    return Pool.open(folder / "pool")


def write_records(path: Path, rows: int) -> np.ndarray:
    """Write JSON Lines; returns int64[rows], the picture of each record, -1 for none."""
    rng = random.Random(0)
    vocabulary = [f"word{number}" for number in range(20_000)]
    recent: list[tuple[str, str, int]] = []
    image_of = np.empty(rows, np.int64)
    with open(path, "w") as file:
        for row in range(rows):
            image = -1 if rng.random() < 0.14 else row // 3
            draw = rng.random()
            if recent and draw < 0.11:
                question, answer, image = rng.choice(recent)
                words = answer.split()
                if draw < 0.10:
                    words[rng.randrange(len(words))] = rng.choice(vocabulary)
                answer = " ".join(words)
            else:
                length = min(1500, int(rng.lognormvariate(4.3, 1.0)) + 1)
                question, answer = (" ".join(rng.choices(vocabulary, k=k)) for k in (9, length))
                recent = [*recent[-500:], (question, answer, image)]
            turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
            file.write(json.dumps({"id": f"r{row}", "conversations": turns}) + "\n")
            image_of[row] = image
    return image_of


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("pictures", "mini", "hamming", "pool"))
    parser.add_argument(
        "--size", type=int, default=100, help="pictures of each kind; samples of the mini world"
    )
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--radius", type=int, default=8)
    parser.add_argument("--against", choices=tuple(OTHERS))
    parser.add_argument("--images", choices=("exact", "near"), default="near")
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    {"pictures": measure_pictures, "mini": measure_mini, "hamming": measure_hamming, "pool": measure_pool}[
        options.what
    ](options)


if __name__ == "__main__":
    main()
