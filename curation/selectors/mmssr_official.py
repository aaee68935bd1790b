"""mmSSR as its released code selects (arXiv 2503.13383; lyumengyao/mmssr), accidents of the rules included.

What the code leaves to chance is fixed here: its sort is unstable and its capability order hangs on PYTHONHASHSEED, so
no two machines need agree with it; here ties keep the order of the rows and capabilities the order given. `mmssr` is
the method without the accidents.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

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
from curation.selectors.mmssr import capability_keys
from curation.selectors.primitives.keys import groups
from curation.selectors.primitives.packed import sort_groups
from curation.selectors.round_robin import ENGINES, Bins, Picks, Ranking, round_robin

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
    changes nothing. Reason: capability, bin, source, score, round. Cost C4: a scorer and styler fit and a forward pass a
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
    bins, names, without_style = _bins(columns)
    alive, tie = np.ones(len(columns), bool), np.arange(len(columns), dtype=np.int32)
    notes = {"missing_score": 0, "unparsed_score": 0, "without_style": without_style}

    @cache
    def ranking(c: int) -> Ranking:
        scores, unparsed = _scores(columns, f"cap_{keys[c]}")
        notes["missing_score"] += int(np.isnan(scores).sum())
        notes["unparsed_score"] += unparsed
        return Ranking.of(scores, scores, tie, threshold)

    picks = round_robin(bins, ranking, list(range(len(keys))), budget, alive, carry=True, engine=engine)
    notes |= {f"exhausted_{keys[c]}": turn for c, turn in picks.exhausted.items()}
    if len(picks.rows) < budget:
        raise BudgetError(budget, len(picks.rows), "no other row has a style and a score above the threshold")
    notes["overshoot"] = len(picks.rows) - budget
    if overshoot == "trim":
        picks = Picks(picks.rows[:budget], picks.queue[:budget], picks.bins[:budget], picks.round[:budget])
    return Selection(rows[picks.rows], _reason(columns, picks, keys, names), notes)


def _bins(columns: pa.Table) -> tuple[Bins, pa.Array, int]:
    """The bins, their names, and how many rows have no style."""
    rows, positions, said = _styles_said(columns)
    codes, distinct = groups(said)
    stripped = [name.strip() for name in distinct]
    sources, source_names = groups(texts(columns, "source"))
    pairs = codes * len(source_names) + sources[rows]
    met = np.flatnonzero(np.bincount(pairs, minlength=len(stripped) * len(source_names)))
    joined = [f"{stripped[pair // len(source_names)]}+{source_names[pair % len(source_names)]}" for pair in met]
    names = sorted(set(joined))  # "a+b" of source "c" and "a" of source "b+c" are one bin, as in the released code
    place = {name: at for at, name in enumerate(names)}
    of_pair = np.zeros(len(stripped) * len(source_names), np.int32)
    of_pair[met] = [place[name] for name in joined]
    bits = int(positions.max(initial=0)).bit_length()
    entries = rows.astype(np.int64) << bits | positions
    entries, starts = sort_groups(of_pair[pairs], len(names), entries, len(columns) << bits)
    styled = np.zeros(len(columns), bool)
    styled[rows] = True
    return _without_repeats(entries.astype(np.int64), starts, bits), pa.array(names, pa.string()), int((~styled).sum())


def _without_repeats(entries: np.ndarray, starts: np.ndarray, bits: int) -> Bins:
    """Bins of entries (row << bits | position), where a style said again is dropped and those after it move up."""
    rows = (entries >> bits).astype(np.int32)
    again = np.flatnonzero(rows[1:] == rows[:-1]) + 1  # equal neighbours of different bins are no repeats
    again = again[~np.isin(again, starts)]
    positions = (entries & ((1 << bits) - 1)).astype(np.int32)
    if not len(again):
        return Bins(rows, starts, positions)
    dropped, touched = np.sort(entries[again]), np.zeros(int(rows.max()) + 1, bool)
    touched[rows[again]] = True
    moved = np.flatnonzero(touched[rows])
    positions[moved] -= (np.searchsorted(dropped, entries[moved]) - np.searchsorted(dropped, entries[moved] >> bits << bits)).astype(np.int32)
    return Bins(np.delete(rows, again), starts - np.searchsorted(again, starts), np.delete(positions, again))


def _styles_said(columns: pa.Table) -> tuple[np.ndarray, np.ndarray, pa.Array]:
    """Row, position in the row's list (0 = first) and name of each style, int32 and text."""
    require(columns, ["styles"])
    lists = columns["styles"].combine_chunks()
    if pa.types.is_string(lists.type) or pa.types.is_large_string(lists.type):
        lists = pc.split_pattern(lists, ",")
    kind = lists.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not pa.types.is_string(kind.value_type):
        raise ColumnError("styles", f"column 'styles' is {columns['styles'].type}, neither list<string> nor text")
    counts = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    flat = lists.flatten()
    rows = np.arange(len(counts), dtype=np.int32).repeat(counts)
    positions = np.arange(len(rows), dtype=np.int32) - (counts.cumsum() - counts).astype(np.int32).repeat(counts)
    if flat.null_count:
        said = flat.is_valid().to_numpy(zero_copy_only=False)
        rows, positions, flat = rows[said], positions[said], flat.drop_null()
    return rows, positions, flat


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
