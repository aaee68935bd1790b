"""A pool with hostile texts, copies, a broken image and bad records; a subset of it; and pages of both."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from curation.explore.__main__ import main
from curation.pool.ingest import build_pool
from curation.pool.read import Pool
from curation.selectors.contract import Selection
from curation.signals.core.table import write_signal
from curation.subset import write_subset

HOSTILE = [
    "<script>document.title = 'run'</script>",
    "</script><script>document.title = 'run'</script>",
    "<!--<script>",
    "<img src=x onerror=\"document.title = 'run'\">",
    "<svg onload=\"document.title = 'run'\"></svg>",
    "<a href=\"javascript:document.title = 'run'\">link</a>",
    "javascript:alert(1)",
    "]]> \u2028 \u2029 &lt;b&gt; &amp; {{data}} {{script}} \\u003c ${1} `",
    "<style>body { display: none }</style>",
    '<meta http-equiv="refresh" content="0; url=https://example.invalid/">',
    "\u202etxet desrever\u202c \x07 \x1b[31mred",
]
COUNT = 60
PICKED = [7, 3, 0, 11, 20, 21, 33]
"""Rows of the pool in rank order."""
COPIED = [3, 13, 43]
"""Rows that are copies of one another."""


def records():
    """Sixty records of three sources, the first ones with a hostile text each; some share an image."""
    made = []
    for number in range(COUNT):
        text = HOSTILE[number] if number < len(HOSTILE) else f"word{number}"
        image = {} if number % 5 == 4 else {"image": f"images/{number % 30}.png"}
        asked = ("<image>\n" if image else "") + f"what is {text} ?"
        turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": f"it is {text} indeed"}]
        own = {"id": f"s{number}", "source": f"src{number % 3}", "conversations": turns}
        made.append(own | image)
    made[50]["id"] = "<b>fifty</b>"
    made[51]["source"] = "<i>odd</i>"
    return made


def build_world(folder):
    """Fill a folder with source, pool, subset, signals/scores, dups and leaks."""
    source = folder / "source"
    (source / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(30):
        Image.fromarray(rng.integers(0, 255, (40, 320, 3), np.uint8)).save(source / f"images/{number}.png")
    bad = [
        {"id": "bad0", "source": "src0", "conversations": [{"from": "human", "value": "<b>no answer</b>"}]},
        {
            "id": "bad1",
            "source": "src1",
            "image": "images/none.png",
            "conversations": [
                {"from": "human", "value": "<image> where ?"},
                {"from": "gpt", "value": "there"},
            ],
        },
    ]
    (source / "data.json").write_text(json.dumps(records() + bad))
    build_pool(source / "data.json", source, folder / "pool", max_bad_fraction=0.5)
    pool = Pool.open(folder / "pool")
    assert len(pool) == COUNT
    (source / "images" / "2.png").write_bytes((source / "images" / "2.png").read_bytes()[:2000])
    _write_subset(folder, pool)
    _write_signals(folder, pool)
    _write_leaks(folder, pool)
    return folder


def _write_subset(folder, pool):
    why = pa.table(
        {
            "capability": [["ocr", "logic"][row % 2] for row in PICKED],
            "score": pa.array([row / 10 for row in PICKED], pa.float32()),
            "note": [f"<u>because {row}</u>" for row in PICKED],
        }
    )
    selection = Selection(np.array(PICKED, np.int64), why)
    write_subset(
        folder / "subset", pool.table, pool.hash, selection, selector="random", params={"a": "<b>"}, seed=0
    )


def _write_signals(folder, pool):
    rows = np.arange(COUNT)
    scores = {
        "row": pa.array(rows, pa.int32()),
        "cap_ocr": pa.array(rows % 6, pa.int8()),
        "nll": pa.array(np.where(rows == 5, np.nan, rows / 7), pa.float32()),
        "styles": pa.array([["word"] if row % 2 else ["yes_no", "word"] for row in rows]),
        "origin": pa.array([f"<em>{row}</em>" for row in rows]),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(COUNT * 4), pa.float32()), 4),
    }
    groups = np.where(np.isin(rows, COPIED), COPIED[0], rows)
    dups = {
        "row": scores["row"],
        "dup_group": pa.array(groups, pa.int32()),
        "dup_kind": pa.array(["near_text" if row in COPIED else None for row in rows]),
        "dup_first": pa.array(groups == rows),
    }
    for name, columns in (("signals/scores", scores), ("dups", dups)):
        table = pa.table(columns)
        write_signal(
            folder / name,
            {"pool_hash": pool.hash, "producer": name},
            COUNT,
            lambda span, advance, table=table: table.slice(span.start, len(span)),
            shard_rows=40,
        )


def _write_leaks(folder, pool):
    (folder / "leaks").mkdir()
    told = {"benchmark": "<b>bench</b>", "item": "item7", "kind": "question", "detail": "<b>9 of 9 words</b>"}
    pq.write_table(pa.Table.from_pylist([{"id": "s21"} | told]), folder / "leaks" / "leaks.parquet")
    (folder / "leaks" / "leaks.json").write_text(json.dumps({"pool_hash": pool.hash}))


def explore(world, out, *arguments):
    """Run the command with signals, copies and leaks; returns the path of the page."""
    given = [
        world / "subset",
        "--pool",
        world / "pool",
        "--signals",
        world / "signals",
        "--dups",
        world / "dups",
    ]
    given += ["--leaks", world / "leaks", "--out", out, "--workers", 1, *arguments]
    assert main([str(argument) for argument in given]) == 0
    return out


def data_of(path):
    """The data inside a page."""
    text = path.read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(found[1])
