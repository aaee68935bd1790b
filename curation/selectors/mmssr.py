"""mmSSR (arXiv 2503.13383): score-prioritised, style-aware round-robin over capabilities.

The rules of the paper, with an exact budget and a stated order for every tie, without the accidents of the
released code (unstable sort, hash-seed dependence, leftovers of floor division). Needs: capability, and style
for bins of styles. Cost class: C4 (a scorer and styler fit, one forward pass per sample). Blind.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from curation.selectors.contract import (
    BudgetError,
    Published,
    Selection,
    Selector,
    check_budget,
    in_row_order,
    numbers,
    one_of,
    row_numbers,
    sources_of,
    texts,
)
from curation.selectors.primitives.keys import groups, seeded_keys
from curation.selectors.primitives.labels import Labels, multi_label
from curation.selectors.round_robin import Bins, Picks, Ranking, round_robin
from curation.selectors.signal_columns import capabilities_of


def needs(bins: str = "style_x_source", **_: object) -> tuple[str, ...]:
    """Styles are needed only where the bins are made of them."""
    return ("capability", "style") if bins.startswith("style") else ("capability",)


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
) -> Selection:
    """Split the budget equally over capabilities, each share equally over bins; take the best of each bin.

    The **score** of capability c is `cap_c` (`score="argmax"`) or `exp_c` ("expected"); null, NaN or negative
    is missing. Candidates of c are the rows with a score strictly above `threshold`, ranked by score, then
    `exp_c` (`cap_c` where that is missing), both descending, then by the hash of (seed, id). A **bin**
    (`bins`) is a style, a source, a pair of both, or everything ("none"); a row is in the bins of all its
    styles, without any in "other".

    In rounds, until the budget is met: each live capability in turn gets max(left // live capabilities, 1)
    rows, fixed at the start of the round and cut to what is left. It deals them to the bins of its candidates
    not yet taken, smallest bin first, then by name: a bin gets ceil(still to deal / bins still to come), or
    all it has left. A row is taken once. A capability without candidates is dropped.

    `capabilities`: in serving order (default: all score columns, in table order). `order`: "given", or
    "scarce_first" (fewest candidates first). `fill`, when all capabilities are exhausted too early: "score"
    adds other rows by their highest expected score, "random" by the hash, "none" raises BudgetError.

    Reason: capability, style (null without style bins), source, score, expected, round (0 = filled), fill.
    Notes: `missing_score` pairs of row and capability, `unscored` rows (never picked, not even to fill),
    `without_style` rows, `exhausted_<capability>` (its last round), `filled` rows. Raises ColumnError,
    BudgetError, SelectorError.
    """
    one_of("bins", bins, ("none", "source", "style", "style_x_source"))
    one_of("score", score, ("argmax", "expected"))
    one_of("order", order, ("given", "scarce_first"))
    one_of("fill", fill, ("none", "score", "random"))
    check_budget(budget, len(columns))
    columns, prefix = in_row_order(columns), "cap_" if score == "argmax" else "exp_"
    capabilities = capabilities_of(columns, capabilities, prefix)
    scores = [_scores(columns, prefix + name) for name in capabilities]
    expected = [_scores(columns, f"exp_{name}", of) for name, of in zip(capabilities, scores, strict=True)]
    hashes = seeded_keys(seed, texts(columns, "id"))
    pool_bins, styles, unstyled = _bins(columns, bins)
    missing = sum((np.isnan(of) for of in scores), np.zeros(len(columns), np.int16))
    alive = missing < len(scores)
    notes = {"missing_score": int(missing.sum()), "unscored": int((~alive).sum()), "without_style": unstyled}
    serve = list(range(len(capabilities)))
    if order == "scarce_first":
        serve.sort(key=lambda at: np.count_nonzero(scores[at] > threshold))
    values = [scores, expected] if score == "argmax" else [scores]
    picks, exhausted = round_robin(
        pool_bins, lambda at: Ranking.of([of[at] for of in values], threshold, hashes), serve, budget, alive
    )
    notes |= {f"exhausted_{capabilities[at]}": turn for at, turn in exhausted.items()}
    notes["filled"] = budget - len(picks.rows)
    if notes["filled"]:
        picks = _filled(picks, budget, fill, alive, expected, hashes)
    filled = picks.rounds == 0
    reason = {
        "capability": pa.array(capabilities, pa.string()).take(pa.array(picks.capability)),
        "style": styles.take(pa.array(picks.bins, mask=filled)),
        "source": sources_of(columns, picks.rows)["source"],
        "score": picks.values(scores.__getitem__).astype(np.float32),
        "expected": picks.values(expected.__getitem__).astype(np.float32),
        "round": pa.array(picks.rounds, pa.int32()),
        "fill": filled,
    }
    return Selection(row_numbers(columns)[picks.rows], pa.table(reason), notes)


def _scores(columns: pa.Table, name: str, default: np.ndarray | None = None) -> np.ndarray:
    """float32[n]: `default` or else NaN where missing or negative; NaN also where `default` is NaN."""
    if default is not None and name not in columns.column_names:
        return default
    values = numbers(columns, name, single=True)
    if default is None:
        return np.where(values >= 0, values, np.float32(np.nan))
    known = (values >= 0) & ~np.isnan(default)
    return values if known.all() else np.where(known, values, default)


def _bins(columns: pa.Table, kind: str) -> tuple[Bins, pa.Array, int]:
    """The bins; the style of each bin code (null without styles); the number of rows without a style."""
    n = len(columns)
    styles = Labels(np.zeros(n, np.int32), np.ones(n, np.int32), [None])
    if kind.startswith("style"):
        styles = multi_label(columns, "styles", default="other")
    source, sources = np.zeros(n, np.int32), [""]
    if kind.endswith("source"):
        source, sources = groups(texts(columns, "source"), np.int32)
    of_code = pa.array(styles.names, pa.string()).take(np.arange(len(styles.names)).repeat(len(sources)))
    return Bins.of(styles.crossed(source, len(sources)), styles.counts), of_code, styles.unlabelled


def _filled(
    picks: Picks, budget: int, fill: str, alive: np.ndarray, expected: list[np.ndarray], hashes: np.ndarray
) -> Picks:
    """The picks and, as round 0, as many other rows as the budget has left."""
    missing, rest = budget - len(picks.rows), np.flatnonzero(alive)
    if fill == "none":
        raise BudgetError(budget, len(picks.rows), "no other row has a score above the threshold")
    if len(rest) < missing:
        raise BudgetError(budget, len(picks.rows) + len(rest), "no other row has a score")
    ties = () if fill == "random" else (-np.fmax.reduce([of[rest] for of in expected]),)
    extra = rest[np.lexsort((hashes[rest], *ties))[:missing]]
    best = np.nanargmax([of[extra] for of in expected], axis=0)
    added = Picks(extra, best, np.full(missing, -1), np.zeros(missing, np.int64))
    return Picks(*map(np.concatenate, zip(picks, added, strict=True)))


PUBLISHED = Published(
    rule="equal shares for capabilities, inside them for bins of style and source, the highest score first",
    source="arXiv 2503.13383; ties and remainders, which the paper leaves open, are ours",
)
SELECTOR = Selector(select, needs=needs, cost="C4", published=PUBLISHED)
