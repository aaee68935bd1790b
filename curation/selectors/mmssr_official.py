"""mmSSR as its released code selects (arXiv 2503.13383; lyumengyao/mmssr), accidents of the rules included.

What the code leaves to chance is fixed here: its sort is unstable and its capability order hangs on PYTHONHASHSEED, so
no two machines need agree with it; here ties keep the order of the rows and capabilities the order given. `mmssr` is
the method without the accidents. Needs: capability, style.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import pyarrow as pa

from curation.selectors.bins import Bins, Said
from curation.selectors.contract import (
    BudgetError,
    Selection,
    SelectorError,
    check_budget,
    numbers,
    row_numbers,
    sources_of,
    texts,
)
from curation.selectors.mmssr import capability_keys
from curation.selectors.primitives.keys import groups
from curation.selectors.round_robin import ENGINES, Picks, Ranking, round_robin

NEEDS: tuple[str, ...] = ("capability", "style")
COST, TARGETED, NESTED = "C4", False, False
OVERSHOOT = ("trim", "official")


def select(
    columns: pa.Table,
    budget: int,
    seed: int,
    *,
    capabilities: Sequence[str] | None = None,
    threshold: float = 0.0,
    overshoot: str = "trim",
    engine: str = "numpy",
) -> Selection:
    """Rounds over capabilities, each share dealt to bins "style+source", smallest bin first, with a carried debt.

    1. `cap_c` may be text: int() reads it (" 4 ", "+3", "1_0", any script's digits; values above 5 stay); what int()
       refuses is missing (`unparsed_score`), as null and NaN are (`missing_score` counts all three).
    2. `styles` is list<string>, or text cut at commas; names are stripped, repeats dropped, "" is a name. Rows with a
       null or empty list are never picked (`without_style`). No vocabulary: a misspelt style is a bin of its own.
    3. In a round each live capability gets max(left // live capabilities, 1), fixed at its start, cut to what is left.
       Candidates: rows not yet taken with a score strictly above `threshold`. A row is in the bin of each of its
       styles. In a bin: rows whose first style it is before those whose second it is, and so on; then higher score;
       then lower `row`.
    4. Bins by number of candidates, then by the text "style+source". With q = max(share // bins, 1), a bin gives q and
       what the bin before it fell short of, as far as it has rows that no earlier bin took; before each bin the
       capability stops if it has its share. So a share smaller than the number of bins may be **overshot**.
    5. A capability without candidates stops the released program (a failing assertion); here it is dropped, as that
       program means to (`exhausted_<capability>`: the round).

    `capabilities`: the keys in the order in which they are served (default: all cap_ columns, in table order).
    `overshoot`: "trim" cuts to `budget` picks, in pick order (`overshoot` counts those cut); "official" keeps them, and
    is the one way in which a selector here returns more than its budget. `engine`: "numpy" or "numba", same picks.

    Ties go by the value of `row`, so another order of the table's lines changes nothing, but renumbered rows do; `seed`
    changes nothing. Reason: capability, bin, source, score, round. Cost class: C4, a scorer and styler fit and a forward pass a
    sample. Blind. Raises BudgetError where fewer rows can be had, ColumnError, SelectorError.
    """
    for value, allowed, name in ((overshoot, OVERSHOOT, "overshoot"), (engine, ENGINES, "engine")):
        if value not in allowed:
            raise SelectorError(f"{name} {value!r} is none of {', '.join(allowed)}")
    check_budget(budget, len(columns))
    keys = capability_keys(columns, capabilities, "argmax")
    rows = row_numbers(columns)
    if (np.diff(rows) < 0).any():
        columns, rows = columns.take(np.argsort(rows, kind="stable")), np.sort(rows)
    bins, names = _bins(columns, engine)
    alive, tie = np.ones(len(columns), bool), np.arange(len(columns), dtype=np.int32)
    notes = {"missing_score": 0, "unparsed_score": 0, "without_style": bins.bare}

    @cache
    def ranking(c: int) -> Ranking:
        scores, unparsed = _scores(columns, f"cap_{keys[c]}")
        notes["missing_score"] += int(np.isnan(scores).sum())
        notes["unparsed_score"] += unparsed
        return Ranking.of(scores, scores, tie, threshold, engine)

    picks = round_robin(bins, ranking, list(range(len(keys))), budget, alive, carry=True, engine=engine)
    notes |= {f"exhausted_{keys[c]}": turn for c, turn in picks.exhausted.items()}
    if len(picks.rows) < budget:
        raise BudgetError(budget, len(picks.rows), "no other row has a style and a score above the threshold")
    notes["overshoot"] = len(picks.rows) - budget
    if overshoot == "trim":
        picks = Picks(picks.rows[:budget], picks.queue[:budget], picks.bins[:budget], picks.round[:budget])
    return Selection(rows[picks.rows], _reason(columns, picks, keys, names), notes)


def _bins(columns: pa.Table, engine: str) -> tuple[Bins, pa.Array]:
    """The bins, and the name of each."""
    said = Said.of(columns, "styles", split=True)
    of_row, sources = groups(texts(columns, "source"), np.int32)
    width = len(sources)
    met = said.met(of_row, width, engine)
    joined = [f"{said.names[pair // width].strip()}+{sources[pair % width]}" for pair in met.tolist()]
    names = sorted(
        set(joined)
    )  # "a+b" of source "c" and "a" of source "b+c" are one bin, as in the released code
    place = {name: at for at, name in enumerate(names)}
    of_pair = np.full(len(said.names) * width, -1, np.int32)
    of_pair[met] = [place[name] for name in joined]
    return Bins.of(said, of_row, of_pair, width=width, placed=True, engine=engine), pa.array(
        names, pa.string()
    )


def _scores(columns: pa.Table, name: str) -> tuple[np.ndarray, int]:
    """float[n], NaN where missing; and how many texts are no integer."""
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


def _reason(columns: pa.Table, picks: Picks, keys: list[str], bins: pa.Array) -> pa.Table:
    scores = np.empty(len(picks.rows))
    for c, key in enumerate(keys):
        of_c = picks.queue == c
        scores[of_c] = _scores(columns.select([f"cap_{key}"]).take(picks.rows[of_c]), f"cap_{key}")[0]
    return pa.table(
        {
            "capability": pa.array(keys, pa.string()).take(pa.array(picks.queue)),
            "bin": bins.take(pa.array(picks.bins)),
            "source": sources_of(columns, picks.rows)["source"],
            "score": pa.array(scores),
            "round": pa.array(picks.round, pa.int32()),
        }
    )
