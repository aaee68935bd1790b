"""The 14 mini benchmarks: held-out items of each capability, answers balanced, as local Parquet for lmms-eval.

    build_bench(Path("bench"), items=300, seed=1000)

Facts in the target position are those that `World.mine` keeps from the pool (object and cell, word, digit instances, flag and
place, photo region ...); concepts are uniform. Among the items that ask the same question (names, colours and cells apart) no answer
is preferred to another, so that the best answer without the image is worth little more than chance.
"""

import io
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq

from curation.mini.atom import Asked, World, ask
from curation.mini.blind import pattern
from curation.mini.makers import MAKERS
from curation.mini.scene import Scene, draw

OPTIONS = 3
DRAWS = 30  # at most so many tries for an item whose answer is not yet frequent
STYLES: dict[str, dict[str, float]] = {
    "generation": {"detailed_description": 1.0},
    "comparison": {"word": 0.7, "comparison": 0.1, "multi_choice": 0.2},
    "logic": {"word": 0.6, "chain_of_thought": 0.2, "multi_choice": 0.2},
    "in_context": {"word": 0.7, "specified": 0.3},
}
"""Styles of a benchmark's questions; the others are asked as `DEFAULT_STYLES`."""
DEFAULT_STYLES = {"word": 0.7, "multi_choice": 0.3}

SCHEMA = pa.schema(
    [
        ("index", pa.int32()),
        ("id", pa.string()),
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("question", pa.string()),
        ("options", pa.list_(pa.string())),
        ("answer", pa.string()),
        ("kind", pa.string()),
        ("capability", pa.string()),
        ("style", pa.string()),
        ("chance", pa.float64()),
    ]
)


def _classes(asked: Asked) -> int:
    """How many answers a guess without the image has to choose from."""
    return OPTIONS if asked.kind == "choice" else asked.atom.classes


def _chance(asked: Asked) -> float:
    """Probability that a guess without the image is right."""
    return 0.0 if asked.kind == "facts" else 1 / _classes(asked)


def _item(capability: str, seed: int, attempt: int, style: str) -> tuple[Scene, Asked, Random]:
    rng = Random(f"bench/{seed}/{capability}/{attempt}")
    scene, atoms = MAKERS[capability](rng, World(bench=True))
    own = [a for a in atoms if a.capability == capability]
    atom = own[0] if rng.random() < 0.6 else rng.choice(own)
    if style == "word" and atom.kind == "coordinate":
        style = "coordinate"
    return scene, ask(atom, style, rng), rng


def _row(asked: Asked, picture: bytes, capability: str, name: str, index: int) -> dict:
    answer = asked.answer if asked.kind == "choice" else asked.atom.answer
    return {
        "index": index,
        "id": f"{name}-{index}",
        "image": {"bytes": picture, "path": None},
        "question": asked.question,
        "options": list(asked.options),
        "answer": answer,
        "kind": asked.kind,
        "capability": capability,
        "style": asked.style,
        "chance": _chance(asked),
    }


def _balanced(
    draws: Iterator[tuple[Scene, Asked, Random]], asks: Counter, answers: Counter
) -> tuple[Scene, Asked, Random]:
    """The first draw whose answer has not had its fair share among the items that ask the same as the very first draw, else
    the one of `DRAWS` whose answer was used least. Counts the item that it returns."""
    best, key, least = None, "", math.inf
    for found in itertools.islice(draws, DRAWS):
        asked = found[1]
        key = key or pattern(asked.question)
        if pattern(asked.question) != key or answers[key, asked.answer] >= least:
            continue
        best, least = found, answers[key, asked.answer]
        if least < (asks[key] + 1) / _classes(asked):
            break
    asks[key] += 1
    answers[key, best[1].answer] += 1
    return best


def benchmark(capability: str, items: int, seed: int) -> pa.Table:
    """`items` questions of one capability, in shuffled order of style."""
    weights = STYLES.get(capability, DEFAULT_STYLES)
    order = Random(f"styles/{seed}/{capability}").choices(list(weights), list(weights.values()), k=items)
    asks, answers, rows, attempts = Counter(), Counter(), [], itertools.count()
    for style in order:
        draws = (_item(capability, seed, attempt, style) for attempt in attempts)
        scene, asked, rng = _balanced(draws, asks, answers)
        picture = io.BytesIO()
        draw(scene, rng, held_out=True).save(picture, "PNG", compress_level=1)
        rows.append(_row(asked, picture.getvalue(), capability, f"{capability}-{seed}", len(rows)))
    return pa.Table.from_pylist(rows, SCHEMA)


def build_bench(
    out: Path, items: int = 300, seed: int = 1000, on_progress: Callable[[int], None] | None = None
) -> dict:
    """Write `<capability>.parquet` for all 14 and bench.json (n, chance of each); returns what bench.json holds."""
    out.mkdir(parents=True, exist_ok=True)
    summary = {}
    for capability in MAKERS:
        table = benchmark(capability, items, seed)
        pq.write_table(table, out / f"{capability}.parquet")
        chances = table["chance"].to_pylist()
        summary[capability] = {"n": len(chances), "chance": round(sum(chances) / len(chances), 4)}
        if on_progress:
            on_progress(1)
    (out / "bench.json").write_text(json.dumps(summary, indent=1))
    return summary
