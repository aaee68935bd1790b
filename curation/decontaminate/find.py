"""Leaks: pairs of a sample of a pool and an item of a benchmark that share an image or a question.

    targets = read_targets(open_items("mm14", Path("benchmarks")))
    leaks = find_leaks(Pool.open(Path("pools/665k")), targets)
    leaks.table                        # LEAKS: one row for each pair
    leaks.rows(("image_exact",))       # rows of the pool to drop

An item has the key (`benchmark`, `item`) of (`benchmark`, `id`) in scores.parquet, and its `unit` there.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curation.decontaminate import pictures
from curation.decontaminate.join import matching
from curation.decontaminate.pictures import EXACT, ImageRule, Matches, match_pictures
from curation.decontaminate.questions import Found, QuestionIndex, QuestionRule, search, shared
from curation.decontaminate.targets import Targets
from curation.progress import Progress

if TYPE_CHECKING:
    from curation.pool.read import Pool

KINDS = ("image_exact", "image_near", "question")
"""By what a sample is an item: the same file or the same pixels; nearly the same pixels; its words alone, of
which sample or item (or both) have no image."""
LEAKS = pa.schema(
    [
        ("row", pa.int32()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("benchmark", pa.string()),
        ("item", pa.string()),
        ("unit", pa.string()),
        ("kind", pa.string()),
        ("score", pa.float32()),
        ("question_score", pa.float32()),
        ("detail", pa.string()),
        ("place", pa.int32()),
    ]
)
"""`score` in 0..1: 1 for an exact image, the share of equal bits of the perceptual hashes for a near one, the
share of the question's words for a question. `question_score`: that share for every pair; an image's leak
with no more than the rule's share is the same image with another question. `place`: of the item among all
targets."""
Watch = Callable[[str], AbstractContextManager[Progress | None]]
"""Shows the progress of a named step, as `curation.progress.shown` does."""
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Rules:
    """What is compared, and when two things are the same."""

    images: ImageRule | None = field(default_factory=ImageRule)
    questions: QuestionRule | None = field(default_factory=QuestionRule)


@dataclass(frozen=True)
class Leaks:
    """`table` (LEAKS, sorted by row and place of the item), and `summary` as in leaks.json.

    `alike`: pairs of the same words about another image, which are no leaks: a visual question is its image
    too. They are kept to look at, since an image may be changed beyond what is recognised.
    """

    table: pa.Table
    summary: dict[str, Any]
    alike: pa.Table = field(default_factory=LEAKS.empty_table)

    def rows(self, kinds: Iterable[str] = KINDS) -> Numbers:
        """The rows of the pool with a leak of one of these kinds, ascending."""
        own = self.table.filter(pc.is_in(self.table["kind"], pa.array(list(kinds), pa.string())))
        return np.unique(own["row"].to_numpy()).astype(np.int64)


def quiet(_: str) -> AbstractContextManager[None]:
    """A `Watch` that shows nothing."""
    return nullcontext()


def find_leaks(
    pool: "Pool", targets: Targets, rules: Rules = Rules(), *, workers: int = 1, watch: Watch = quiet
) -> Leaks:
    """Every pair of a sample and an item that share an image or a question; one row each, by its best kind.

    Raises PoolError for a pool without image hashes (unless `rules.images` is None), and what reading it
    raises.
    """
    image_rule, question_rule = rules.images, rules.questions
    pairs, seen = _Pairs.none(), None
    if image_rule:
        with watch("images") as report:
            seen = match_pictures(pool, targets.pictures, image_rule, workers=workers, on_progress=report)
        pairs = _image_pairs(pool, targets, seen)
    counts = {"templates_of_items": 0, "templates_of_samples": 0, "short": 0}
    if question_rule:
        index = QuestionIndex(targets.questions, _occasions(targets), question_rule)
        counts["short"] = int((index.words[index.of_item] < question_rule.n).sum())
        pairs.question[:] = shared(pool, index, pairs.row, index.of_item[pairs.item])
        with watch("questions") as report:
            found = search(pool, index, question_rule, report)
        pairs = _with_questions(pairs, found, index.of_item)
        counts |= {
            "templates_of_items": found.templates_of_items,
            "templates_of_samples": found.templates_of_samples,
        }
    refuted = _refuted(pool, targets, pairs) if image_rule else np.zeros(len(pairs.row), np.bool_)
    table, alike = (_table(pool, targets, pairs.take(which)) for which in (~refuted, refuted))
    counts["other_image"] = len(alike)
    summary = _summary(pool, targets, rules, table) | {
        "images": {
            "compared": seen.images if seen else 0,
            "of_benchmarks": len(targets.pictures),
            "flat": int(targets.pictures.flat.sum()),
            "unreadable_of_pool": seen.unreadable if seen else 0,
            "unreadable_of_benchmarks": targets.pictures.unreadable,
        },
        "questions": counts,
    }
    return Leaks(table, summary, alike)


@dataclass
class _Pairs:
    """(row, item) with the number of a kind, distance and difference of images, score of the question."""

    row: Numbers
    item: Numbers
    kind: Numbers
    distance: Numbers
    difference: NDArray[np.float64]
    question: NDArray[np.float64]

    @classmethod
    def none(cls) -> "_Pairs":
        whole, real = np.zeros(0, np.int64), np.zeros(0)
        return cls(whole, whole, whole, whole, real, real)

    def take(self, at: Any) -> "_Pairs":
        return _Pairs(*(column[at] for column in self.columns()))

    def columns(self) -> list[NDArray[Any]]:
        return [self.row, self.item, self.kind, self.distance, self.difference, self.question]


def _image_pairs(pool: "Pool", targets: Targets, seen: Matches) -> _Pairs:
    """A pair for each sample and each item that show a common picture; the best match counts."""
    row, match = pictures.of_rows(pool, seen.image)
    uses = targets.pictures.of_item
    left, right = matching(seen.picture[match], uses[:, 1])
    row, match, item = row[left], match[left], uses[right, 0]
    kind, distance = seen.kind[match], seen.distance[match]
    pairs = _Pairs(row, item, kind, distance, seen.difference[match], np.zeros(len(row)))
    pairs = pairs.take(np.lexsort((distance, kind, item, row)))
    return pairs.take(_first(pairs.row, pairs.item))


def _with_questions(pairs: _Pairs, found: Found, of_item: Numbers) -> _Pairs:
    """The pairs, and one for each sample and item that share the question alone."""
    left, item = matching(found.question, of_item)
    row, share = found.row[left], found.share[left]
    none = np.full(len(row), -1)
    own = _Pairs(row, item, np.full(len(row), 2), none, np.zeros(len(row)), share)
    both = _Pairs(*map(np.concatenate, zip(pairs.columns(), own.columns(), strict=True)))
    both = both.take(np.lexsort((both.kind, both.item, both.row)))
    return both.take(_first(both.row, both.item))


def _refuted(pool: "Pool", targets: Targets, pairs: _Pairs) -> NDArray[np.bool_]:
    """Whether a pair that shares its words alone has images on both sides, which are not the same."""
    shown = np.zeros(len(targets), np.bool_)
    shown[targets.pictures.of_item[:, 0]] = True
    has_image = pool.table["n_images"].to_numpy() > 0
    return (pairs.kind == 2) & has_image[pairs.row] & shown[pairs.item]


def _first(row: Numbers, item: Numbers) -> NDArray[np.bool_]:
    """Whether each pair of sorted columns is the first of its kind."""
    first = np.ones(len(row), np.bool_)
    first[1:] = (row[1:] != row[:-1]) | (item[1:] != item[:-1])
    return first


def _occasions(targets: Targets) -> list[Any]:
    """What is shown with each item's question: the numbers of its pictures, else its unit."""
    shown: dict[int, list[int]] = {}
    for item, picture in targets.pictures.of_item.tolist():
        shown.setdefault(item, []).append(picture)
    keys = zip(targets.benchmark.tolist(), targets.units, strict=True)
    return [tuple(shown[item]) if item in shown else key for item, key in enumerate(keys)]


def _table(pool: "Pool", targets: Targets, pairs: _Pairs) -> pa.Table:
    rows, items = pa.array(pairs.row), pa.array(pairs.item)
    by_image = pairs.kind < 2
    score = np.where(by_image, pictures.score(pairs.kind, pairs.distance), pairs.question)
    columns = [
        pairs.row,
        pool.table["id"].take(rows),
        pool.table["source"].take(rows),
        pa.array(targets.names, pa.string()).take(pa.array(targets.benchmark[pairs.item])),
        pa.array(targets.ids, pa.string()).take(items),
        pa.array(targets.units, pa.string()).take(items),
        pa.array(KINDS, pa.string()).take(pa.array(pairs.kind)),
        score,
        pairs.question,
        pa.array([_detail(*row) for row in zip(*(c.tolist() for c in pairs.columns()[2:]), strict=True)]),
        pairs.item,
    ]
    return pa.table({f.name: _cast(c, f.type) for f, c in zip(LEAKS, columns, strict=True)})


def _cast(column: Any, kind: pa.DataType) -> Any:
    return (pa.array(column) if isinstance(column, np.ndarray) else column).cast(kind)


def _detail(kind: int, distance: int, difference: float, question: float) -> str:
    """What of a pair is alike, in words."""
    words = f"{question:.0%} of the question's words"
    if kind == 2:
        return words
    image = f"{distance} bits, mean difference {difference:.1f}"
    if kind == EXACT:
        image = "same file" if distance < 0 else "same pixels"
    return f"{image}; {words}"


def _summary(pool: "Pool", targets: Targets, rules: Rules, table: pa.Table) -> dict[str, Any]:
    """Counts and all that decides them, as JSON."""
    share = rules.questions.share if rules.questions else 1.0
    asked = pc.greater(table["question_score"], pa.scalar(share, pa.float32())).to_pylist()
    kinds = [
        f"{kind}+question" if kind != "question" and both else kind
        for kind, both in zip(table["kind"].to_pylist(), asked, strict=True)
    ]
    items = set(zip(table["benchmark"].to_pylist(), table["item"].to_pylist(), strict=True))
    return {
        "pool_hash": pool.hash,
        "suite": targets.suite,
        "suite_hash": targets.suite_hash,
        "data": dict(targets.content),
        "missing": dict(targets.missing),
        "rules": asdict(rules),
        "samples": len(pool),
        "items": len(targets),
        "leaks": len(table),
        "leaked_samples": len(set(table["row"].to_pylist())),
        "leaked_items": len(items),
        "by_kind": _counts(kinds),
        "by_benchmark": _by(table, "benchmark", targets.names, kinds),
        "by_source": _by(table, "source", [], kinds),
    }


def _by(
    table: pa.Table, column: str, names: Sequence[str], kinds: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Of each value of a column (and of `names` without any): samples, items, and pairs by kind."""
    groups: dict[str, list[int]] = {name: [] for name in names}
    for at, value in enumerate(table[column].to_pylist()):
        groups.setdefault(value, []).append(at)
    rows, items = table["row"].to_numpy(), table["place"].to_numpy()
    return {
        value: {
            "samples": len(np.unique(rows[own])),
            "items": len(np.unique(items[own])),
            "by_kind": _counts(kinds[at] for at in own),
        }
        for value, own in groups.items()
    }


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items(), key=lambda entry: (-entry[1], entry[0])))
