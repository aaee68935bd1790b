"""The mini world's pool: a LLaVA JSON with image files, as a user would bring one, and a truth table.

    python -m curation.mini.pool --out DIR --size 6000 [--seed 0] [--bench BENCH_DIR]

`pool.json` and `images/` do not reveal the planted defects; they are recorded in `truth.parquet`, which only
the mini world's teacher and the report read.
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from curation.mini.draft import Defects, Draft, draft
from curation.pool.sample import IMAGE_PLACEHOLDER
from curation.taxonomy import CAPABILITY_KEYS

Picture = Image.Image | bytes
"""A drawn image, or the PNG bytes of a benchmark item."""
SHARD = 1000  # images per directory
TRUTH_ROWS = 20_000  # rows of the truth table held in memory
DEFAULT_DEFECTS = Defects()
TRUTH = pa.schema(
    [
        ("id", pa.string()),
        ("capability", pa.string()),
        *((f"cap_{capability}", pa.int8()) for capability in CAPABILITY_KEYS),
        ("styles", pa.list_(pa.string())),
        ("wrong", pa.bool_()),
        ("mismatched", pa.bool_()),
        ("blind", pa.bool_()),
        ("leak", pa.bool_()),
        ("root", pa.int64()),
    ]
)


def _record(id: str, source: str, image: str | None, turns: list[tuple[str, str]]) -> dict:
    conversations = []
    for i, (question, answer) in enumerate(turns):
        asked = f"{IMAGE_PLACEHOLDER}\n{question}" if image and i == 0 else question
        conversations += [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]
    return {"id": id, "source": source, **({"image": image} if image else {}), "conversations": conversations}


class Leaks:
    """Benchmark items that are leaked into the pool."""

    def __init__(self, bench: Path) -> None:
        self.tables = [
            pq.read_table(p, columns=["image", "question", "answer", "capability", "style"])
            for p in sorted(bench.glob("*.parquet"))
        ]

    def take(self, rng: Random) -> dict:
        """One item, as a dict."""
        table = rng.choice(self.tables)
        return table.slice(rng.randrange(len(table)), 1).to_pylist()[0]


def _truth(drawn: Draft, id: str) -> dict:
    scores = {f"cap_{capability}": score for capability, score in drawn.scores().items()}
    return {
        "id": id,
        "capability": drawn.asked[0].atom.capability,
        **scores,
        "styles": drawn.styles(),
        "wrong": drawn.wrong,
        "mismatched": drawn.mismatched,
        "blind": drawn.blind,
        "leak": False,
        "root": drawn.index if drawn.root is None else drawn.root,
    }


def _leaked(item: dict, index: int, id: str) -> dict:
    scores = {f"cap_{name}": 3 * (name == item["capability"]) for name in CAPABILITY_KEYS}
    return {
        "id": id,
        "capability": item["capability"],
        **scores,
        "styles": [item["style"]],
        "wrong": False,
        "mismatched": False,
        "blind": False,
        "leak": True,
        "root": index,
    }


def samples(
    size: int, seed: int, defects: Defects, leaks: Leaks | None
) -> Iterator[tuple[dict, dict, Picture | None]]:
    """(LLaVA record, row of the truth table, image or None) of each sample."""
    for index in range(size):
        rng = Random(f"leak/{seed}/{index}")
        if leaks and rng.random() < defects.leaks:
            item, id = leaks.take(rng), f"web-{index:07d}"
            record = _record(id, "webcap", _image_path(index, id), [(item["question"], item["answer"])])
            yield record, _leaked(item, index, id), item["image"]["bytes"]
            continue
        drawn = draft(index, seed, defects)
        id = f"{drawn.source}-{index:07d}"
        image = _image_path(index, id) if drawn.scene else None
        yield (
            _record(id, drawn.source, image, [(a.question, a.answer) for a in drawn.asked]),
            _truth(drawn, id),
            drawn.image(),
        )


def build_source(
    out: Path,
    size: int,
    seed: int = 0,
    defects: Defects = DEFAULT_DEFECTS,
    bench: Path | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> dict:
    """Write pool.json, images/ and truth.parquet to `out`; returns counts of samples, defects and sources.

    bench: folder of the benchmarks that leaks are taken from; None plants no leaks.
    """
    out.mkdir(parents=True, exist_ok=True)
    leaks = Leaks(bench) if bench and defects.leaks else None
    counts: Counter[str] = Counter()
    by_source: Counter[str] = Counter()
    rows: list[dict] = []
    with open(out / "pool.json", "w") as handle, pq.ParquetWriter(out / "truth.parquet", TRUTH) as truth:
        handle.write("[\n")
        for n, (record, row, image) in enumerate(samples(size, seed, defects, leaks)):
            if image is not None:
                _write_image(out / record["image"], image)
            handle.write((",\n" if n else "") + json.dumps(record))
            by_source[record["source"]] += 1
            counts.update(k for k in ("wrong", "mismatched", "blind", "leak") if row[k])
            counts.update(["near_duplicate"] * (row["root"] != n) + ["text_only"] * (image is None))
            rows.append(row)
            if len(rows) == TRUTH_ROWS:
                truth.write_table(pa.Table.from_pylist(rows, TRUTH))
                rows = []
            if on_progress:
                on_progress(1)
        handle.write("\n]\n")
        truth.write_table(pa.Table.from_pylist(rows, TRUTH))
    return {
        "samples": size,
        "defects": dict(sorted(counts.items())),
        "sources": dict(by_source.most_common()),
    }


def _image_path(index: int, id: str) -> str:
    return f"images/{index // SHARD:04d}/{id}.png"


def _write_image(path: Path, image: Picture) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(image, bytes):
        path.write_bytes(image)
    else:
        image.save(path, "PNG", compress_level=1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bench", type=Path, help="folder of the benchmarks that leaks are taken from")
    args = parser.parse_args()
    print(json.dumps(build_source(args.out, args.size, args.seed, bench=args.bench), indent=1))


if __name__ == "__main__":
    main()
