"""mmSSR as its released code selects (arXiv 2503.13383; lyumengyao/mmssr), its accidental rules included.

What that code leaves to chance is fixed here: its sort is unstable and its capability order depends on
PYTHONHASHSEED, so two machines may disagree; here ties keep the order of the rows, and capabilities the order
given. Measured against that code when it was executed: equal in set and order in 35 of 35 cells once its
sorts are made stable and its sets ordered. As released it agrees with itself under another hash seed by a
Jaccard index of 0.977, and with the picks here by 0.04 to 0.66 at a budget of 2 %, 0.30 to 0.87 at 10 % and
0.89 to 0.998 at 70 %, because ties of score and of bin size alike are sorted unstably: no rule can give "the"
released subset.

Its budget is int(N x ratio) in floating point, which can be one less than the share (62 for 0.7 x 90); here a
share is rounded down exactly. `mmssr` is the method without the accidents. Needs: capability, style.
"""

from collections.abc import Sequence
from functools import cache

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
from curation.selectors.mmssr import capabilities_of
from curation.selectors.primitives.keys import groups
from curation.selectors.primitives.labels import multi_label
from curation.selectors.round_robin import Bins, Picks, Ranking, round_robin


def select(
    columns: pa.Table,
    budget: int,
    seed: int,
    *,
    capabilities: Sequence[str] | None = None,
    threshold: float = 0.0,
    overshoot: str = "trim",
) -> Selection:
    """Rounds over capabilities; a share goes to bins "style+source", smallest first, with a carried debt.

    1. `cap_c` may be text that int() reads (" 4 ", "+3", "1_0", digits of any script; values above 5 stay);
       what int() rejects is missing (`unparsed_score`), as are null and NaN (`missing_score` counts all).
    2. `styles` is list<string>, or text cut at commas; names are stripped, repeats dropped, "" is a name.
       Rows without a style are never picked (`without_style`). A misspelt style has its own bin.
    3. In a round each live capability gets max(left // live capabilities, 1), fixed at its start, cut to what
       is left. Candidates: rows not yet taken with a score strictly above `threshold`. A row is in the bins
       of all its styles. In a bin, rows whose first style it is come before those whose second it is, and so
       on; then the higher score; then the lower `row`.
    4. Bins by number of candidates, then by the text "style+source". With q = max(share // bins, 1), a bin
       gives q rows plus the shortfall of the bin before it, as far as it has rows that no earlier bin took;
       before each bin the capability stops if it has its share. So a share smaller than the number of bins
       may be **overshot**.
    5. A capability without candidates stops the released program (a failed assertion); here it is dropped, as
       the program intends (`exhausted_<capability>`: the round).

    `capabilities`: in serving order (default: all cap_ columns, in table order). `overshoot`: "trim" cuts to
    `budget` picks, in pick order (`overshoot` counts those cut); "official" keeps them, and says so in
    `Selection.surplus`.

    Ties are broken by the value of `row`, so the order of the table has no effect, but renumbered rows do;
    `seed` has none. Reason: capability, bin, source, score, round. Cost class: C4 (a scorer and styler fit,
    one forward pass per sample). Blind. Raises BudgetError where fewer rows are available, ColumnError,
    SelectorError.
    """
    one_of("overshoot", overshoot, ("trim", "official"))
    check_budget(budget, len(columns))
    capabilities = capabilities_of(columns, capabilities, "cap_")
    columns = in_row_order(columns)
    bins, names, without_style = _bins(columns)
    notes = {"missing_score": 0, "unparsed_score": 0, "without_style": without_style}

    @cache
    def scores(at: int) -> np.ndarray:
        values, unparsed = _scores(columns, f"cap_{capabilities[at]}")
        notes["missing_score"] += int(np.isnan(values).sum())
        notes["unparsed_score"] += unparsed
        return values

    serve, alive = list(range(len(capabilities))), np.ones(len(columns), bool)
    picks, exhausted = round_robin(
        bins, lambda at: Ranking.of([scores(at)], threshold), serve, budget, alive, carry=True
    )
    notes |= {f"exhausted_{capabilities[at]}": turn for at, turn in exhausted.items()}
    if len(picks.rows) < budget:
        raise BudgetError(budget, len(picks.rows), "no other row has a style and a score above the threshold")
    notes["overshoot"] = surplus = len(picks.rows) - budget
    if overshoot == "trim":
        picks, surplus = Picks(*(column[:budget] for column in picks)), 0
    reason = {
        "capability": pa.array(capabilities, pa.string()).take(pa.array(picks.capability)),
        "bin": names.take(pa.array(picks.bins)),
        "source": sources_of(columns, picks.rows)["source"],
        "score": picks.values(scores),
        "round": pa.array(picks.rounds, pa.int32()),
    }
    return Selection(row_numbers(columns)[picks.rows], pa.table(reason), notes, surplus)


def _bins(columns: pa.Table) -> tuple[Bins, pa.Array, int]:
    """The bins, the name of each bin code, and the number of rows without a style."""
    styles = multi_label(columns, "styles", split=True)
    source, sources = groups(texts(columns, "source"), np.int32)
    width = len(sources)
    pairs = styles.crossed(source, width)
    present = np.flatnonzero(np.bincount(pairs))
    joined = [f"{styles.names[at // width]}+{sources[at % width]}" for at in present.tolist()]
    # as in the released code, "a+b" of source "c" and "a" of source "b+c" are one bin
    names = sorted(set(joined))
    place = {name: at for at, name in enumerate(names)}
    depth = int(styles.counts.max(initial=1))
    kind = np.min_scalar_type(len(names) * depth)
    of_pair = np.zeros(int(present.max(initial=-1)) + 1, kind)
    of_pair[present] = [place[name] for name in joined]
    codes = of_pair[pairs] * kind.type(depth) + styles.position.astype(kind)
    return Bins.of(codes, styles.counts, depth), pa.array(names, pa.string()), styles.unlabelled


def _scores(columns: pa.Table, name: str) -> tuple[np.ndarray, int]:
    """(float[n], NaN where missing; number of texts that are not integers)."""
    column = columns[name]
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        small = pa.types.is_float32(kind) or (pa.types.is_integer(kind) and kind.bit_width <= 16)
        return numbers(columns, name, single=small), 0
    encoded = column.combine_chunks().cast(kind).dictionary_encode()
    read = np.array([_integer(text) for text in encoded.dictionary.to_pylist()] + [np.nan])
    values = read[encoded.indices.fill_null(len(read) - 1).to_numpy()]
    return values, int(np.isnan(values).sum()) - encoded.null_count


def _integer(text: str) -> float:
    try:
        return float(int(text))
    except (ValueError, OverflowError):
        return float("nan")


PUBLISHED = Published(
    rule="rounds over capabilities; bins of style and source, smallest first, carry their shortfall on",
    source="arXiv 2503.13383, released code executed; its sorts made stable, its sets ordered",
)
SELECTOR = Selector(select, needs=("capability", "style"), cost="C4", published=PUBLISHED)
