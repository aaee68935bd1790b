"""Multi-label columns, bins and rankings of the round-robin, against plain Python."""

import numpy as np
import pyarrow as pa
import pytest
from selector_tables import plain_key

from curation.selectors import ColumnError
from curation.selectors.primitives.keys import groups, seeded_keys
from curation.selectors.primitives.labels import multi_label
from curation.selectors.registry import get_selector
from curation.selectors.round_robin import Bins, Picks, Ranking, round_robin

NAMES = ("a", "b", "c", "", " a")


def random_lists(rng, n):
    """Lists with nulls, null labels, repeated labels, and an offset into a longer array."""
    lists = [
        None
        if rng.random() < 0.2
        else [None if rng.random() < 0.1 else NAMES[k] for k in rng.integers(0, 5, rng.integers(0, 5))]
        for _ in range(n + 1)
    ]
    return pa.array(lists, pa.list_(pa.string())).slice(1), lists[1:]


def by_row(labels):
    """[[label, ...] of each row] of the CSR form."""
    ends = labels.counts.cumsum()
    return [
        [labels.names[code] for code in labels.codes[end - count : end]]
        for end, count in zip(ends, labels.counts, strict=True)
    ]


@pytest.mark.parametrize("kind", ["plain", "encoded", "large", "chunked"])
@pytest.mark.parametrize(("default", "split"), [(None, False), ("b", False), ("z", False), (None, True)])
def test_labels_equal_plain_python(kind, default, split):
    for case in range(60):
        rng = np.random.default_rng(case)
        column, lists = random_lists(rng, n := int(rng.integers(1, 30)))
        if kind == "encoded":
            column = column.cast(pa.list_(pa.dictionary(pa.int32(), pa.string())))
        if kind == "large":
            column = column.cast(pa.large_list(pa.large_string()))
        if kind == "chunked":
            column = pa.chunked_array([column.slice(0, n // 2), column.slice(n // 2)])
        labels = multi_label(pa.table({"styles": column}), "styles", default=default, split=split)
        own = [[name.strip() if split else name for name in row or [] if name is not None] for row in lists]
        own = [list(dict.fromkeys(name for name in row if default is None or name)) for row in own]
        assert labels.unlabelled == own.count([]), case
        assert by_row(labels) == [row or ([] if default is None else [default]) for row in own], case
        assert labels.position.tolist() == [place for row in by_row(labels) for place in range(len(row))]
        assert list(labels.names) == sorted(set(labels.names)) and labels.codes.dtype == np.int32


def test_text_is_split_at_commas_only_where_asked():
    table = pa.table({"styles": ["a, b,a", None, ""]})
    assert by_row(multi_label(table, "styles", split=True)) == [["a", "b"], [], [""]]
    with pytest.raises(ColumnError, match=r"column 'styles' must be list<string>, got string"):
        multi_label(table, "styles")


def test_lists_of_numbers_are_refused():
    for split, expected in ((False, "list<string>"), (True, "list<string> or text")):
        with pytest.raises(ColumnError, match=rf"must be {expected}, got list<.*int64>"):
            multi_label(pa.table({"styles": [[1], [2]]}), "styles", split=split)


def test_crossed_codes_are_label_times_width_plus_group():
    labels = multi_label(pa.table({"styles": [["a", "c"], ["b"], []]}), "styles")
    assert labels.crossed(np.array([2, 0, 1]), 3).tolist() == [0 * 3 + 2, 2 * 3 + 2, 1 * 3 + 0]
    many = multi_label(pa.table({"styles": [[f"{k:03d}"] for k in range(300)]}), "styles")
    codes = many.crossed(np.full(300, 299), 300)  # the highest code needs 17 bits
    assert codes[-1] == 300 * 300 - 1 and codes.itemsize == 4


def segments_of(bins):
    """bin code -> [rows of each segment]."""
    spans = [
        bins.rows[start:end].tolist() for start, end in zip(bins.starts[:-1], bins.starts[1:], strict=True)
    ]
    return {
        int(code): spans[first:last]
        for code, first, last in zip(bins.codes, bins.first[:-1], bins.first[1:], strict=True)
    }


@pytest.mark.parametrize("depth", [1, 4])
def test_bins_equal_plain_python(depth):
    for case in range(100):
        rng = np.random.default_rng(case)
        of_row = [rng.permutation(6)[: rng.integers(0, 5)].tolist() for _ in range(rng.integers(1, 30))]
        counts = np.array([len(row) for row in of_row])
        place = [range(len(row)) if depth > 1 else [0] * len(row) for row in of_row]
        codes = [
            b * depth + p for row, ps in zip(of_row, place, strict=True) for b, p in zip(row, ps, strict=True)
        ]
        expected = {}
        for row, (names, ps) in enumerate(zip(of_row, place, strict=True)):
            for name, p in zip(names, ps, strict=True):
                expected.setdefault(name, {}).setdefault(p, []).append(row)
        bins = Bins.of(np.array(codes, np.uint8), counts, depth)
        assert segments_of(bins) == {
            name: [rows for _, rows in sorted(expected[name].items())] for name in sorted(expected)
        }, case
        assert bins.starts[-1] == len(codes) and bins.first[-1] == len(bins.starts) - 1


SCORES = {
    "whole": lambda rng, n: rng.integers(0, 6, n),
    "fractions": lambda rng, n: np.round(rng.random(n) * 5, 1),
    "one value": lambda rng, n: np.full(n, 3.0),
    "far apart": lambda rng, n: rng.choice([0.0, 1e-30, 1.0, 2.0, 3e38, np.inf], n),
    "missing": lambda rng, n: rng.choice([np.nan, 1.0, 2.0], n),
}


@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize("threshold", [-1.0, 0.0, 1.5])
def test_levels_follow_the_score_and_best_equals_a_full_sort(scores, threshold):
    for case in range(40):
        rng = np.random.default_rng(case)
        n = int(rng.integers(1, 60))
        score = SCORES[scores](rng, n).astype(np.float32)
        second, hashes = rng.integers(0, 3, n).astype(np.float32), rng.permutation(n).astype(np.uint64)
        ranking = Ranking.of([score, second], threshold, hashes)
        assert (ranking.level > 0).tolist() == (score > threshold).tolist()
        ascending = np.argsort(score[ranking.level > 0])
        assert (np.diff(ranking.level[ranking.level > 0][ascending].astype(int)) >= 0).all()
        assert ranking.cuts[0] == 1 and ranking.cuts == sorted(set(ranking.cuts))
        alive = rng.random(n) < 0.7
        rows = np.flatnonzero(rng.random(n) < 0.8)
        order = sorted(
            (row for row in rows.tolist() if alive[row] and score[row] > threshold),
            key=lambda row: (-score[row], -second[row], hashes[row]),
        )
        for count in (1, 3, n):
            best = ranking.best(rows, ranking.level[rows] * alive[rows], count)
            assert best.tolist() == order[:count], case


def test_equal_rows_keep_their_order_without_hashes_and_with_equal_ones():
    score = np.array([1, 2, 2, 2, 1], np.float32)
    for hashes in (None, np.zeros(5, np.uint64)):
        ranking = Ranking.of([score], 0.0, hashes)
        assert ranking.best(np.arange(5), ranking.level, 4).tolist() == [1, 2, 3, 0]


@pytest.mark.parametrize(
    "repeats", [1, 900, 2000]
)  # the levels to try come from a sample of 2,048 to 4,096 rows
def test_each_whole_score_has_a_level_to_try(repeats):
    ranking = Ranking.of([np.repeat(np.arange(6), repeats).astype(np.float32)], 0.0)
    assert ranking.cuts == [1, *sorted(set(ranking.level.tolist()) - {0})]
    assert len(ranking.cuts) == 6 and ranking.cuts[-1] == 255


def test_best_reads_only_rows_at_the_level_that_enough_rows_reach():
    score = np.repeat(np.arange(6), 100).astype(np.float32)
    # a NaN key of a row that should not be compared would show in the order
    unread = np.where(score < 4, np.nan, 1.0).astype(np.float32)
    ranking = Ranking.of([score, unread], 0.0)
    seen: list[int] = []

    class Recorded(np.ndarray):
        def __getitem__(self, rows):
            seen.append(len(rows))
            return np.asarray(self)[rows]

    watched = Ranking([score, unread.view(Recorded)], None, ranking.level, ranking.cuts)
    assert watched.best(np.arange(600), ranking.level, 150).tolist() == [*range(500, 600), *range(400, 450)]
    assert seen == [200]


def test_shares_are_fixed_at_the_start_of_a_round_and_picks_are_cleared():
    bins = Bins.of(np.zeros(10, np.uint8), np.ones(10, int))
    score, alive = np.arange(10, 0, -1).astype(np.float32), np.ones(10, bool)
    few = np.where(np.arange(10) < 1, score, 0)
    rankings = [Ranking.of([few], 0.0), Ranking.of([score], 0.0), Ranking.of([score], 0.0)]
    picks, exhausted = round_robin(bins, rankings.__getitem__, [0, 1, 2], 8, alive)
    # round 1: 8 // 3 = 2 each, the first has one; round 2: 3 // 3 = 1 each, the first is dropped; round 3: 1
    assert picks.rows.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert picks.capability.tolist() == [0, 1, 1, 2, 2, 1, 2, 1] and picks.rounds.tolist() == [1] * 5 + [
        2,
        2,
        3,
    ]
    assert exhausted == {0: 2} and alive.tolist() == [False] * 8 + [True] * 2


def test_without_any_candidate_every_capability_is_dropped_in_the_first_round():
    none = np.empty(0)
    bins = Bins.of(np.empty(0, np.uint8), np.zeros(3, int))
    picks, exhausted = round_robin(
        bins, lambda _: Ranking.of([np.ones(3, np.float32)], 0.0), [0, 1], 2, np.ones(3, bool)
    )
    assert [column.tolist() for column in picks] == [none.tolist()] * 4 and exhausted == {0: 1, 1: 1}


def test_values_of_picks_are_read_only_for_picked_capabilities():
    picks = Picks(np.array([2, 0, 1]), np.array([2, 0, 2]), np.zeros(3, int), np.ones(3, int))
    scores = {0: np.array([5.0, 6.0, 7.0]), 2: np.array([1.0, 2.0, 3.0])}
    assert picks.values(scores.__getitem__).tolist() == [3.0, 5.0, 2.0]


def test_selections_do_not_depend_on_how_styles_are_stored_or_chunked():
    rng, n = np.random.default_rng(0), 60
    column, _ = random_lists(rng, n)
    table = pa.table(
        {
            "row": np.arange(n),
            "id": [f"i{k}" for k in range(n)],
            "source": [f"s{k % 3}" for k in range(n)],
            "styles": column,
            "cap_ocr": rng.integers(0, 6, n).astype(np.int8),
            "cap_logic": rng.integers(0, 6, n).astype(np.int8),
        }
    )
    kind = pa.list_(pa.dictionary(pa.int32(), pa.string()))
    coded = pa.chunked_array([column.slice(0, 25).cast(kind), column.slice(25).cast(kind)])
    stored = table.set_column(3, "styles", coded)
    chunks = stored["styles"].chunks
    assert stored["styles"].type == kind
    assert chunks[0].values.dictionary != chunks[1].values.dictionary
    for name in ("mmssr", "mmssr_official"):
        plain, found = (get_selector(name)(t, 20, 3) for t in (table, stored))
        assert plain.rows.tolist() == found.rows.tolist()
        assert plain.reason.equals(found.reason) and plain.notes == found.notes


def test_groups_of_encoded_text_are_those_of_plain_text():
    names = pa.array(["b", None, "a", "b"])
    codes, found = groups(names)
    assert codes.tolist() == [1, -1, 0, 1] and found == ["a", "b"]
    repeated = pa.DictionaryArray.from_arrays(pa.array([0, None, 1, 2], pa.int8()), pa.array(["b", "a", "b"]))
    codes, found = groups(repeated)
    assert codes.tolist() == [1, -1, 0, 1] and found == ["a", "b"]


def test_keys_of_names_of_every_length_equal_plain_arithmetic():
    names = ["", "a", "b" * 300, "é", "id_1"] * 3
    assert seeded_keys(5, pa.array(names)).tolist() == [plain_key(5, name) for name in names]
    assert len(seeded_keys(5, pa.array([], pa.string()))) == 0


def test_candidates_barely_above_the_threshold_count_in_the_size_of_their_bin():
    # rows 0 and 1 have the lowest level; their bin of two comes before the bin of three
    scores = np.array([1e-3, 1e-3, 5, 5, 5], np.float32)
    bins = Bins.of(np.array([1, 1, 0, 0, 0], np.uint8), np.ones(5, int))
    picks, _ = round_robin(bins, lambda _: Ranking.of([scores], 0.0), [0], 4, np.ones(5, bool))
    assert picks.rows.tolist() == [0, 1, 2, 3] and picks.bins.tolist() == [1, 1, 0, 0]
