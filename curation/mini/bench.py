"""The mini benchmarks, one per capability: held-out items with balanced answers, as Parquet for lmms-eval.

    build_bench(Path("bench"), items=300, seed=1000)

The facts asked for (object and cell, word, digit instance, flag and place, photo region ...) are held out
from the pool by `Split.owns`; concepts are drawn uniformly. Answers are balanced among the items that ask the
same question (up to names, colours and cells), so that the best answer without the image scores little above
chance.
"""

import io
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq

from curation.mini.atom import Asked, Split, ask
from curation.mini.blind import pattern
from curation.mini.makers import MAKERS
from curation.mini.scene import Scene, draw

Drawn = tuple[Scene, Asked, Random]
"""A scene, one question about it, and the random numbers to render it with."""
OPTIONS = 3
DRAWS = 30  # tries to find an item whose answer is not yet frequent
STYLES: dict[str, dict[str, float]] = {
    "generation": {"detailed_description": 1.0},
    "comparison": {"word": 0.7, "comparison": 0.1, "multi_choice": 0.2},
    "logic": {"word": 0.6, "chain_of_thought": 0.2, "multi_choice": 0.2},
    "in_context": {"word": 0.7, "specified": 0.3},
}
"""Style weights of a capability's questions; `DEFAULT_STYLES` for the others."""
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
    """Number of answers that a guess without the image chooses from."""
    return OPTIONS if asked.kind == "choice" else asked.atom.classes


def _chance(asked: Asked) -> float:
    """Probability that a guess without the image is right."""
    return 0.0 if asked.kind == "facts" else 1 / _classes(asked)


def _item(capability: str, seed: int, attempt: int, style: str) -> Drawn:
    rng = Random(f"bench/{seed}/{capability}/{attempt}")
    scene, atoms = MAKERS[capability](rng, Split(held_out=True))
    candidates = [atom for atom in atoms if atom.capability == capability]
    atom = candidates[0] if rng.random() < 0.6 else rng.choice(candidates)
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


def _balanced(draws: Iterator[Drawn], asks: Counter[str], answers: Counter[tuple[str, str]]) -> Drawn:
    """The first draw whose answer is below its fair share, else the one with the least used answer.

    Only draws that ask the same question pattern as the first one are considered. `asks` counts the items by
    pattern, `answers` by (pattern, answer); the returned item is added to both.
    """
    best = next(draws)
    question = pattern(best[1].question)
    least = answers[question, best[1].answer]
    for drawn in itertools.chain([best], itertools.islice(draws, DRAWS - 1)):
        asked = drawn[1]
        if pattern(asked.question) != question:
            continue
        if drawn is not best and answers[question, asked.answer] >= least:
            continue
        best, least = drawn, answers[question, asked.answer]
        if least < (asks[question] + 1) / _classes(asked):
            break
    asks[question] += 1
    answers[question, best[1].answer] += 1
    return best


def benchmark(capability: str, items: int, seed: int) -> pa.Table:
    """`items` questions of one capability, styles in random order."""
    weights = STYLES.get(capability, DEFAULT_STYLES)
    order = Random(f"styles/{seed}/{capability}").choices(list(weights), list(weights.values()), k=items)
    asks: Counter[str] = Counter()
    answers: Counter[tuple[str, str]] = Counter()
    rows: list[dict] = []
    attempts = itertools.count()
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
    """Write `<capability>.parquet` for each capability and bench.json (n and chance); returns the latter."""
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
