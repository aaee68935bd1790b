"""mmSSR (arXiv 2503.13383): score-prioritised, style-aware round-robin over capabilities.

The rules of the paper, with an exact budget and a stated order for every tie; where the released code does otherwise
by accident (unstable sort, hash-seed dependence, leftovers of floor division) this selector does not follow it.
Needs: capability, and style where the bins are made of styles.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import pyarrow as pa

from curation.selectors.bins import Bins, Said
from curation.selectors.contract import (
    BudgetError,
    ColumnError,
    Selection,
    SelectorError,
    check_budget,
    numbers,
    require,
    row_numbers,
    sources_of,
    texts,
)
from curation.selectors.primitives.keys import groups, seeded_keys
from curation.selectors.primitives.packed import hash_order
from curation.selectors.round_robin import ENGINES, Picks, Ranking, round_robin

NEEDS: tuple[str, ...] = ("capability", "style")
COST, TARGETED, NESTED = "C4", False, False
BINS = ("none", "source", "style", "style_x_source")
OTHER = "other"


def needs(bins: str = "style_x_source", **_: object) -> tuple[str, ...]:
    """Styles are needed only where the bins are made of them."""
    return NEEDS if bins.startswith("style") else NEEDS[:1]


def select(
    columns: pa.Table,
    budget: int,
    seed: int,
    *,
    capabilities: Sequence[str] | None = None,
    bins: str = "style_x_source",
    score: str = "argmax",
    threshold: float = 0.0,
    order: str = "given",
    fill: str = "score",
    engine: str = "numpy",
) -> Selection:
    """Split the budget equally over capabilities, each share equally over bins, and take the best of each bin.

    The **score** of capability c is `cap_c` (`score="argmax"`) or `exp_c` (`score="expected"`); null, NaN or negative
    is missing. Candidates of c are the rows with a score strictly above `threshold`, ranked by score, then `exp_c`
    (`cap_c` where that is missing), both descending, then by the hash of (seed, id). A **bin** (`bins`) is a style, a
    source, a pair of both, or everything; a row with several styles stands in several bins, one without any in those
    of the style "other".

    In rounds, until the budget is met: every live capability gets a share of max(left // live capabilities, 1), fixed
    at the start of the round and cut to what is left when its turn comes. It deals that share to the bins of its
    candidates not yet taken, smallest bin first, then by name: a bin gets ceil(still to deal / bins still to come),
    or all it has left. A row taken once is gone for all. A capability without candidates is dropped.

    `capabilities`: the keys in the order in which they are served (default: all score columns, in table order).
    `order`: "given", or "scarce_first" (fewest candidates first). `fill`: what happens when all capabilities are
    exhausted before the budget is met. "score" (default) goes on with the other rows, highest expected score in any
    capability first; "random" with the other rows by the hash; "none" raises BudgetError.

    Reason: capability, style (null without style bins), source, score, expected, round (0 = filled), fill.
    Notes: `filled` rows; `missing_score`: pairs of row and capability without a score, which are never candidates;
    `unscored`: rows without any score, which are never picked, not even to fill; `without_style` rows;
    `exhausted_<capability>`: the round in which it ran dry.
    Cost class: C4, a scorer and styler fit and one forward pass a sample. Blind. Raises ColumnError, BudgetError, SelectorError.
    """
    for value, allowed, name in (
        (bins, BINS, "bins"),
        (score, ("argmax", "expected"), "score"),
        (order, ("given", "scarce_first"), "order"),
        (fill, ("none", "score", "random"), "fill"),
        (engine, ENGINES, "engine"),
    ):
        if value not in allowed:
            raise SelectorError(f"{name} {value!r} is none of {', '.join(allowed)}")
    check_budget(budget, len(columns))
    keys = capability_keys(columns, capabilities, score)
    if (np.diff(row_numbers(columns)) < 0).any():  # equal ids are told apart by their rows
        columns = columns.sort_by("row")
    main, expected = _scores(columns, keys, score)
    by_hash = hash_order(seeded_keys(seed, texts(columns, "id"), engine))
    tie = np.empty_like(by_hash)
    tie[by_hash] = np.arange(len(by_hash), dtype=by_hash.dtype)
    index, styles = _bins(columns, bins, engine)
    serve = list(range(len(keys)))
    if order == "scarce_first":
        serve.sort(key=lambda c: np.count_nonzero(main[c] > threshold))
    alive, notes = (
        np.zeros(len(columns), bool),
        {"missing_score": 0, "unscored": 0, "without_style": index.bare},
    )
    for scores in main:
        there = ~np.isnan(scores) if _any_missing(scores) else np.ones(len(scores), bool)
        alive |= there
        notes["missing_score"] += len(there) - int(np.count_nonzero(there))
    notes["unscored"] = len(alive) - int(np.count_nonzero(alive))

    @cache
    def ranking(c: int) -> Ranking:
        return Ranking.of(main[c], expected[c], tie, threshold, engine)

    picks = round_robin(index, ranking, serve, budget, alive, engine=engine)
    notes |= {f"exhausted_{keys[c]}": turn for c, turn in picks.exhausted.items()}
    notes["filled"] = budget - len(picks.rows)
    picks = _filled(picks, budget, fill, alive, expected, by_hash)
    return Selection(
        row_numbers(columns)[picks.rows], _reason(columns, picks, keys, styles, main, expected), notes
    )


def capability_keys(columns: pa.Table, asked: Sequence[str] | None, score: str) -> list[str]:
    """The capabilities `asked` for, or all that the table scores. Raises ColumnError, SelectorError."""
    prefix = "cap_" if score == "argmax" else "exp_"
    there = [name.removeprefix(prefix) for name in columns.column_names if name.startswith(prefix)]
    keys = there if asked is None else list(asked)
    if not keys:
        raise ColumnError(
            prefix + "*",
            f"no capability to select by: there is no column {prefix}<capability>"
            if asked is None
            else "capabilities is an empty list",
        )
    require(columns, [prefix + key for key in keys])
    if len(set(keys)) != len(keys):
        raise SelectorError(f"a capability is named twice in {keys}")
    return keys


def _scores(columns: pa.Table, keys: list[str], score: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Score and expected score of each capability, float32[n], NaN where missing."""
    main = [_read(columns, ("cap_" if score == "argmax" else "exp_") + key) for key in keys]
    if score == "expected":
        return main, main
    return main, [_expected(columns, key, scores) for key, scores in zip(keys, main, strict=True)]


def _expected(columns: pa.Table, key: str, scores: np.ndarray) -> np.ndarray:
    if f"exp_{key}" not in columns.column_names:
        return scores
    expected = _read(columns, f"exp_{key}")
    if not _any_missing(expected) and not _any_missing(scores):
        return expected
    return np.where(np.isnan(expected) | np.isnan(scores), scores, expected)


def _read(columns: pa.Table, name: str) -> np.ndarray:
    values = numbers(columns, name, single=True)
    return (
        np.where(values < 0, np.float32(np.nan), values)
        if np.fmin.reduce(values, initial=0.0) < 0
        else values
    )


def _any_missing(values: np.ndarray) -> bool:
    """Whether one is NaN, at a third of the cost of looking at each."""
    with np.errstate(over="ignore"):
        return bool(np.isnan(np.add.reduce(values)))


def _bins(columns: pa.Table, kind: str, engine: str) -> tuple[Bins, pa.Array]:
    """The bins, and the style of each (null without styles)."""
    of_row, sources = np.zeros(len(columns), np.int32), [""]
    if kind.endswith("source"):
        of_row, sources = groups(texts(columns, "source"), np.int32)
    if kind.startswith("style"):
        said = Said.of(columns, "styles").without("")
        styles = [*said.names, *({OTHER} - set(said.names))]
    else:
        said, styles = Said(np.zeros(len(columns), np.int32), np.arange(len(columns) + 1), [""]), [None]
    order = sorted(range(len(styles)), key=lambda at: styles[at] or "")
    of_style = np.empty(len(styles), np.int32)
    of_style[order] = np.arange(len(styles))
    of_pair = (of_style[:, None] * len(sources) + np.arange(len(sources))).astype(np.int32).ravel()
    bare = styles.index(OTHER) if kind.startswith("style") else None
    bins = Bins.of(said, of_row, of_pair, width=len(sources), bare=bare, engine=engine)
    return bins, pa.array([styles[at] for at in order], pa.string()).take(
        np.arange(len(styles)).repeat(len(sources))
    )


def _filled(
    picks: Picks, budget: int, fill: str, alive: np.ndarray, expected: list[np.ndarray], by_hash: np.ndarray
) -> Picks:
    missing = budget - len(picks.rows)
    if not missing:
        return picks
    rest = by_hash[alive[by_hash]]
    if fill == "none" or len(rest) < missing:
        raise BudgetError(
            budget,
            len(picks.rows) + (0 if fill == "none" else len(rest)),
            "no other row has a score above the threshold" if fill == "none" else "no other row is scored",
        )
    if fill == "score":
        rest = rest[np.argsort(-np.fmax.reduce([scores[rest] for scores in expected]), kind="stable")]
    extra = rest[:missing]
    best = np.nanargmax([scores[extra] for scores in expected], axis=0)
    bins, rounds = np.full(missing, -1), np.zeros(missing, np.int64)
    return Picks(
        *(
            np.concatenate(pair)
            for pair in ((picks.rows, extra), (picks.queue, best), (picks.bins, bins), (picks.round, rounds))
        ),
        picks.exhausted,
    )


def _reason(
    columns: pa.Table,
    picks: Picks,
    keys: list[str],
    styles: pa.Array,
    main: list[np.ndarray],
    expected: list[np.ndarray],
) -> pa.Table:
    filled = picks.round == 0
    return pa.table(
        {
            "capability": pa.array(keys, pa.string()).take(pa.array(picks.queue)),
            "style": styles.take(pa.array(picks.bins, mask=filled)),
            "source": sources_of(columns, picks.rows)["source"],
            "score": pa.array(_of_picks(picks, main)),
            "expected": pa.array(_of_picks(picks, expected)),
            "round": pa.array(picks.round, pa.int32()),
            "fill": pa.array(filled),
        }
    )


def _of_picks(picks: Picks, scores: list[np.ndarray]) -> np.ndarray:
    """float32[n]: the score of each pick in the capability that it was taken for."""
    found = np.empty(len(picks.rows), np.float32)
    for c, of_c in enumerate(scores):
        mine = picks.queue == c
        found[mine] = of_c[picks.rows[mine]]
    return found
