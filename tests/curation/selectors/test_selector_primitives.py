"""The building blocks of selectors, against plain loops and by hand."""

import hashlib
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.selectors.contract import (
    BudgetError,
    ColumnError,
    SelectorError,
    SizeError,
    bounded,
    flags,
    vectors,
)
from curation.selectors.primitives import cosine, distance, farthest, graph, greedy, pick, vote
from curation.selectors.primitives.band import band
from curation.selectors.primitives.candidates import by_hash, find_candidates
from curation.selectors.primitives.quota import explicit_shares, quota_by_group

some = settings(max_examples=40, deadline=None)
CORNERS = np.array([[1, 0], [0, 1], [1, 1], [-1, 0], [1, 0], [0, 0]], np.float16)


def random_units(seed: int, n: int, width: int = 4) -> np.ndarray:
    """Unit vectors on a coarse lattice, so that many cosines are equal."""
    return cosine.unit(np.round(np.random.default_rng(seed).normal(0, 1, (n, width))))


# --- columns


def vector_array(values: list[list[float] | None]) -> pa.Array:
    return pa.array(values, pa.list_(pa.float16(), 2))


def test_vectors_are_a_view_and_unknown_ones_are_marked():
    array = vector_array([[1, 2], None, [float("nan"), 0], [3, 4]])
    found, known = vectors(pa.table({"v": array}), "v")
    assert known.tolist() == [True, False, False, True] and found[3].tolist() == [3, 4]
    assert found.dtype == np.float16
    flat = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(8, dtype=np.float16)), 2)
    view, known = vectors(pa.table({"v": flat}).slice(1, 2), "v")
    assert view.tolist() == [[2, 3], [4, 5]] and known.all()
    assert np.shares_memory(view, flat.values.to_numpy())


def test_vectors_of_several_chunks_keep_their_order():
    table = pa.table({"v": vector_array([[1, 2], None, [5, 6]])})
    found, known = vectors(pa.concat_tables([table.slice(2), table.slice(0, 2)]), "v")
    assert found[:2].tolist() == [[5, 6], [1, 2]] and known.tolist() == [True, True, False]
    assert vectors(table.slice(0, 0), "v")[0].shape == (0, 2)


@pytest.mark.parametrize(
    "array", [pa.array([[1.0]]), pa.array([1.0]), pa.array([[1]], pa.list_(pa.int32(), 1))]
)
def test_a_column_that_does_not_hold_vectors_is_refused(array):
    with pytest.raises(ColumnError, match="must be vectors"):
        vectors(pa.table({"v": array}), "v")


def test_flags_and_bounded_numbers():
    table = pa.table({"f": [True, None, False], "x": [1.0, None, float("inf")], "y": [-1.0, 0.5, 2.0]})
    assert flags(table, "f").tolist() == [True, False, False]
    with pytest.raises(ColumnError, match="must be bool, got double"):
        flags(table, "x")
    values, outside = bounded(table, "y", low=0, high=1)
    assert np.isnan(values).tolist() == [True, False, True] and outside.tolist() == [True, False, True]
    ends, outside = bounded(pa.table({"z": [0.0, 1.0]}), "z", low=0, high=1)
    assert ends.tolist() == [0.0, 1.0] and not outside.any()  # the bounds themselves are inside
    values, outside = bounded(table, "x")
    assert np.isnan(values).tolist() == [False, True, True] and not outside.any()


# --- quotas


@pytest.mark.parametrize(
    ("options", "budget", "counts"),
    [
        ({}, 7, [4, 2, 1]),  # 3.5, 2.1, 1.4
        ({"allocation": "equal"}, 9, [3, 3, 3]),
        ({"allocation": "equal"}, 100, [50, 30, 20]),
        ({"allocation": "equal"}, 80, [30, 30, 20]),  # 26.7 each, but the third has 20
        ({"allocation": "softmax", "stat": np.log([1.0, 1.0, 2.0])}, 12, [3, 3, 6]),
        ({"allocation": "softmax", "stat": np.log([1.0, 1.0, 2.0]), "tau": 0.5}, 12, [2, 2, 8]),
        ({"allocation": "softmax", "stat": np.array([1.0, 9.0, 5.0]), "tau": float("inf")}, 12, [4, 4, 4]),
        ({"allocation": "softmax", "stat": np.array([0.0, 9000.0, 0.0])}, 40, [5, 30, 5]),
        ({"allocation": "explicit", "shares": np.array([0.0, 1.0, 3.0])}, 12, [0, 3, 9]),
        ({"allocation": "explicit", "shares": np.array([0.0, 1.0, 3.0])}, 48, [0, 28, 20]),
    ],
)
def test_quota_by_group_by_hand(options, budget, counts):
    assert quota_by_group(np.array([50, 30, 20]), budget, **options).tolist() == counts


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=8).filter(any),
    st.sampled_from(["proportional", "equal", "softmax"]),
    st.data(),
)
@some
def test_quota_by_group_is_exact_and_capped(sizes, allocation, data):
    sizes = np.array(sizes)
    stat = np.array(data.draw(st.lists(st.floats(-5, 5), min_size=len(sizes), max_size=len(sizes))))
    budget = data.draw(st.integers(0, int(sizes.sum())))
    counts = quota_by_group(sizes, budget, allocation=allocation, stat=stat)
    assert counts.sum() == budget and (counts >= 0).all() and (counts <= sizes).all()


def test_quota_by_group_refuses_invalid_weights():
    sizes = np.array([5, 5])
    with pytest.raises(BudgetError) as error:
        quota_by_group(sizes, 6, allocation="explicit", shares=np.array([1.0, 0.0]))
    assert (error.value.requested, error.value.available) == (6, 5)
    for options, message in [
        ({"allocation": "softmax"}, "a finite number for each"),
        ({"allocation": "softmax", "stat": np.array([1.0, np.nan])}, "a finite number for each"),
        (
            {"allocation": "softmax", "stat": np.zeros(2), "tau": 0.0},
            "tau must be positive .inf = equal., got 0.0",
        ),
        ({"allocation": "explicit", "shares": np.array([1.0, -1.0])}, "shares >= 0"),
        ({"allocation": "even"}, "must be one of .*, got 'even'"),
    ]:
        with pytest.raises(SelectorError, match=message):
            quota_by_group(sizes, 4, **options)
    with pytest.raises(SelectorError, match="'c', which no row has; groups are a, b"):
        explicit_shares(["a", "b"], {"c": 1})


# --- bands, votes


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.data())
@some
def test_band_is_the_ends_or_the_middle_of_the_ranking(values, data):
    budget = data.draw(st.integers(1, len(values)))
    ranked = sorted(range(len(values)), key=lambda i: (values[i], i))
    start = (len(values) - budget) // 2
    values = np.array(values, float)
    assert band(values, budget, "bottom").tolist() == ranked[:budget]
    assert (
        band(values, budget, "top").tolist()
        == sorted(range(len(values)), key=lambda i: (-values[i], i))[:budget]
    )
    assert sorted(band(values, budget, "mid").tolist()) == sorted(ranked[start : start + budget])


def test_band_of_nothing_is_empty():
    for rule in ("top", "bottom", "mid"):
        assert len(band(np.empty(0), 0, rule)) == 0


@given(
    st.lists(
        st.lists(st.one_of(st.integers(0, 4), st.just(None)), min_size=6, max_size=6), min_size=1, max_size=4
    ),
    st.floats(0.01, 1),
)
@some
def test_votes_and_ranks_equal_plain_counts(columns, share):
    values = np.array([[np.nan if v is None else v for v in column] for column in columns], float)
    wanted_votes, wanted_ranks = [0] * 6, [0] * 6
    for column in columns:
        there = sorted((v for v in column if v is not None), reverse=True)
        for i, v in enumerate(column):
            if v is not None:
                wanted_votes[i] += v >= there[max(int(share * len(there) + 1e-9), 1) - 1]
            above = sum(w is not None and (v is None or w > v) for w in column)
            equal = sum((w is None) == (v is None) and (v is None or w == v) for w in column)
            wanted_ranks[i] += 2 * above + equal + 1  # twice the mean of ranks above + 1 .. above + equal
    assert vote.votes(values, share).tolist() == wanted_votes
    assert vote.rank_sums(values).tolist() == wanted_ranks


# --- cosines


def test_unit_vectors_and_cosines_by_hand():
    units = cosine.unit(CORNERS)
    found = cosine.cosines(units, units)
    assert found[0].tolist()[:2] == [1, 0] and found[0, 3] == -1 and found[0, 4] == 1
    assert found[0, 2] == pytest.approx(2**-0.5, abs=1e-5)
    assert not found[5].any(), "a vector of zeros resembles nothing, not even itself"


@pytest.mark.parametrize("width", [3, 64, 1000, 20_000])
def test_products_of_unit_vectors_are_exact_in_any_order(width):
    rng = np.random.default_rng(width)
    units = cosine.unit(rng.normal(size=(6, width)).astype(np.float16))
    order = rng.permutation(width)
    plain = np.array(
        [[float(sum((a * 2**24 * (b * 2**24)).astype(object)) / 2**48) for b in units] for a in units[:2]]
    )
    assert ((units[:, order] @ units[:, order].T)[:2] == plain).all()
    assert (cosine.cosines(units, units).diagonal() == 1).all()


def test_exp_is_within_two_units_in_the_last_place():
    x = np.concatenate([np.linspace(-700, 700, 20_001), np.linspace(-1, 1, 20_001)])
    assert np.abs(cosine.exp(x) / np.exp(x) - 1).max() <= 2 * 2.0**-52
    assert cosine.exp(np.array([0.0, -np.inf, -2000.0])).tolist()[0] == 1.0


def test_joined_vectors_weigh_the_same():
    units = cosine.lookup(np.array([[8.0, 0]]), np.array([[0, 0.5]]))(np.array([0]))
    np.testing.assert_allclose(units, [[2**-0.5, 0, 0, 2**-0.5]], atol=1e-6)


# --- graphs, greedy picks


@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 6), st.booleans())
@some
def test_nearest_equals_a_full_sort(seed, n, k, grouped):
    units = random_units(seed, n)
    codes = np.random.default_rng(seed).integers(0, 3, n) if grouped else np.zeros(n, int)
    found = graph.nearest(np.arange(n), lambda rows: units[rows], k, codes)
    near = cosine.cosines(units, units)
    for i in range(n):
        others = sorted(
            (j for j in range(n) if j != i and codes[j] == codes[i]), key=lambda j: (-near[i, j], j)
        )[:k]
        assert [j for j in found.neighbours[i].tolist() if j >= 0] == others
        assert found.cosine[i, : len(others)].tolist() == [near[i, j] for j in others]


def test_messages_by_hand():
    neighbours = graph.Graph(np.array([[1, 2], [0, -1], [-1, -1]]), np.array([[1.0, 0.5], [1.0, 0], [0, 0]]))
    np.testing.assert_allclose(neighbours.distance[0], [0, 1])
    edges = graph.edges_of(neighbours.neighbours, neighbours.distance)
    weights = np.array([1.0, 0.5, 1.0])
    assert edges.gather(np.array([1.0, 2.0, 4.0]), weights).tolist() == [4.0, 1.0, 0.0]
    assert [row.tolist() for row in edges.by_row(edges.to)] == [[1, 2], [0], []]
    both = edges.both_ways()
    assert [row.tolist() for row in both.by_row(both.to)] == [[1, 2], [0], [0]]
    np.testing.assert_allclose(both.distance, [0, 1, 0, 1])
    assert len(graph.edges_of(np.empty((0, 2), int), np.empty((0, 2))).both_ways().to) == 0


@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 6), st.booleans())
@some
def test_nearest_points_equals_a_full_sort(seed, n, k, grouped):
    rng = np.random.default_rng(seed)
    values = rng.integers(-3, 4, (n, 3)) * float(rng.choice([0.25, 1.0, 64.0]))
    columns = pa.table({"v": pa.array(values.tolist(), pa.list_(pa.float16(), 3))})
    codes = rng.integers(0, 3, n) if grouped else np.zeros(n, int)
    points, scale = distance.on_grid(columns, ["v"], np.arange(n))
    assert (points(np.arange(n)) * scale == values).all()
    neighbours, squared = distance.nearest_points(np.arange(n), points, k, codes)
    apart = ((values[:, None] - values[None]) ** 2).sum(axis=2)
    for i in range(n):
        others = [j for j in range(n) if j != i and codes[j] == codes[i]]
        others = sorted(others, key=lambda j: (apart[i, j], j))[:k]
        assert [j for j in neighbours[i].tolist() if j >= 0] == others
        assert (squared[i, : len(others)] * scale**2).tolist() == [apart[i, j] for j in others]


@given(
    st.integers(0, 10**6),
    st.integers(1, 40),
    st.sampled_from([-0.2, 0.0, 0.5, 0.9, 1.0]),
    st.booleans(),
    st.data(),
)
@some
def test_greedy_similarity_equals_a_plain_loop(seed, n, threshold, grouped, data):
    units, budget = random_units(seed, n), data.draw(st.integers(1, n))
    codes = np.random.default_rng(seed).integers(0, 3, n) if grouped else np.zeros(n, int)
    near, kept = cosine.cosines(units, units), []
    for i in range(n):
        if all(near[i, j] <= threshold for j in kept if codes[j] == codes[i]):
            kept.append(i)
    found = greedy.greedy_similarity(np.arange(n), lambda rows: units[rows], budget, threshold, codes)
    assert found.tolist() == kept[:budget]


def test_greedy_similarity_across_blocks(monkeypatch):
    monkeypatch.setattr(greedy, "_BLOCK", 7)
    monkeypatch.setattr(greedy, "_CHUNK", 3)
    units = random_units(5, 60)
    near, kept = cosine.cosines(units, units), []
    for i in range(60):
        if all(near[i, j] <= 0.4 for j in kept):
            kept.append(i)
    assert len(kept) > 7
    for budget in (1, 4, len(kept), 60):
        assert (
            greedy.greedy_similarity(np.arange(60), lambda rows: units[rows], budget, 0.4).tolist()
            == kept[:budget]
        )


@given(st.integers(0, 10**6), st.integers(1, 20), st.integers(0, 4))
@some
def test_greedy_penalty_equals_a_plain_loop(seed, n, k):
    rng = np.random.default_rng(seed)
    signed = bool(seed % 2)
    scores, neighbours = np.round(rng.gamma(2, 1, n) - signed, 1), rng.integers(-1, n, (n, k))
    weights = rng.choice([0.0, 0.25, 0.5], (n, k))
    left, wanted = scores.tolist(), []
    while len(wanted) < n:
        at = max((i for i in range(n) if i not in wanted), key=lambda i: (left[i], -i))
        wanted.append(at)
        for to, weight in zip(neighbours[at].tolist(), weights[at].tolist(), strict=True):
            if to >= 0 and to not in wanted and (left[at] > 0 or signed):
                left[to] -= left[at] * weight
    for edges in ((neighbours, weights), (list(neighbours), list(weights))):
        assert greedy.greedy_penalty(scores, *edges, n, signed=signed).tolist() == wanted
        assert greedy.greedy_penalty(scores, *edges, n // 2, signed=signed).tolist() == wanted[: n // 2]


@given(st.integers(0, 10**6), st.integers(1, 25))
@some
def test_farthest_point_equals_a_plain_loop(seed, n):
    units = random_units(seed, n)
    near = cosine.cosines(units, units)
    wanted = [0]
    while len(wanted) < n:
        wanted.append(
            min((i for i in range(n) if i not in wanted), key=lambda i: (max(near[i, j] for j in wanted), i))
        )
    assert farthest.farthest_point(units, n + 3, start=0).tolist() == wanted


def test_farthest_point_starts_near_the_mean():
    units = cosine.unit(np.array([[1, 0], [10, 9], [0, 1], [9, 10]]))
    assert farthest.farthest_point(units, 1).tolist() == [1]
    assert farthest.farthest_point(units, 3).tolist()[:2] in ([1, 2], [1, 0])


# --- picks inside groups


def group(score=None, units=None, n=None) -> pick.Group:
    n = n or len(score if score is not None else units)
    keys = np.array(
        [int.from_bytes(hashlib.sha256(f"{i}".encode()).digest()[:8], "little") for i in range(n)], np.uint64
    )
    return pick.Group(keys, None if score is None else np.array(score, float), units)


def test_simple_rules_by_hand():
    scored = group([2, 5, 5, 1])
    assert pick.rule("top")(scored, 3).tolist() == [1, 2, 0]
    assert pick.rule("bottom")(scored, 2).tolist() == [3, 0]
    assert pick.rule("random")(scored, 2).tolist() == [0, 1]


def test_soft_sample_prefers_by_softmax():
    rng, counts = np.random.default_rng(0), Counter()
    for _ in range(3000):
        keys = rng.integers(0, 2**64, 3, dtype=np.uint64)
        counts[
            int(pick.soft_sample(pick.Group(keys, np.log([1.0, 2.0, 5.0]), np.empty(0)), 1, tau=1.0)[0])
        ] += 1
    # probabilities 1/8, 2/8, 5/8; three standard deviations are below 0.03
    np.testing.assert_allclose([counts[i] / 3000 for i in range(3)], [0.125, 0.25, 0.625], atol=0.03)


@given(st.integers(0, 10**6), st.integers(1, 25), st.integers(1, 30))
@some
def test_typicality_equals_a_plain_mean(seed, n, k):
    units = random_units(seed, n)
    near = cosine.cosines(units, units)
    wanted = []
    for i in range(n):
        best = sorted((near[i, j] for j in range(n) if j != i), reverse=True)[:k]
        wanted.append(sum(best) / len(best) if best else 0.0)
    assert pick.typical(units, k).tolist() == wanted
    order = sorted(range(n), key=lambda i: (-wanted[i], i))
    assert pick.rule("typicality", neighbours=k)(group(units=units), n).tolist() == order


@given(st.integers(0, 10**6), st.integers(1, 12), st.sampled_from([0.3, 1.0]))
@some
def test_mmd_picks_the_least_discrepancy_at_each_step(seed, n, sigma):
    units = random_units(seed, n)
    kernel = pick.kernel(units, units, sigma).astype(object)  # whole numbers of any size

    def discrepancy(rows):  # times n^2 m^2, so that it is whole
        m = len(rows)
        inside, across = (
            sum(kernel[i, j] for i in rows for j in rows),
            sum(kernel[i, j] for i in rows for j in range(n)),
        )
        return n * n * inside - 2 * n * m * across + m * m * kernel.sum()

    picks = pick.rule("mmd", sigma=sigma)(group(units=units), n).tolist()
    assert sorted(picks) == list(range(n))
    for m in range(n):
        best = min((discrepancy([*picks[:m], i]), i) for i in range(n) if i not in picks[:m])
        assert discrepancy(picks[: m + 1]) == best[0] and picks[m] == best[1]


def test_picks_by_group_are_dealt_in_turns():
    rows, codes = np.arange(7), np.array([0, 1, 0, 1, 0, 2, 0])
    keys, score = np.arange(7, dtype=np.uint64), np.array([1.0, 1, 9, 5, 3, 7, 2])
    found = pick.pick_by_group(rows, codes, np.array([3, 1, 0]), pick.rule("top"), keys, score=score)
    assert found.tolist() == [2, 3, 4, 6]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "best"}, "pick must be one of top, bottom"),
        ({"name": "top", "tau": 0}, "tau=0"),
        ({"name": "mmd", "sigma": -1}, "sigma=-1"),
    ],
)
def test_bad_rules_are_refused(options, message):
    with pytest.raises(SelectorError, match=message):
        pick.rule(**options)


# --- limits: steps of quadratic cost raise SizeError instead of running for a day


def test_steps_of_quadratic_cost_refuse_large_input(monkeypatch):
    units = random_units(0, 12)

    def find(rows):
        return units[rows]

    for module, name, limit in (
        (graph, "ROW_LIMIT", 11),
        (greedy, "PAIR_LIMIT", 35),
        (farthest, "PAIR_LIMIT", 35),
        (pick, "GROUP_LIMIT", 11),
    ):
        monkeypatch.setattr(module, name, limit)
    rows = np.arange(12)
    for step, size, remedy in (
        (lambda: graph.nearest(rows, find, 2), 12, "within"),
        (lambda: greedy.greedy_similarity(rows, find, 3, 0.9), 36, "within"),
        (lambda: farthest.farthest_point(units, 3), 36, "clusters"),
        (lambda: pick.typical(units, 2), 12, "more clusters"),
        (lambda: pick.mmd(group(units=units), 2), 12, "more clusters"),
    ):
        with pytest.raises(SizeError, match=remedy) as error:
            step()
        assert (error.value.size, error.value.limit) == (size, 35 if size == 36 else 11)
    # inside groups each is small enough
    codes = rows % 2
    assert graph.nearest(rows, find, 2, codes).neighbours.shape == (12, 2)
    assert len(greedy.greedy_similarity(rows, find, 2, 1.0, codes)) == 2


# --- rows set aside


def pool(images: list[int]) -> pa.Table:
    n = len(images)
    return pa.table(
        {"row": np.arange(n), "id": [f"r{i}" for i in range(n)], "source": ["s"] * n, "n_images": images}
    )


def test_rows_are_set_aside_with_a_count():
    usable = np.array([True, False, False, True, True, True])
    outside = np.array([False, False, True, False, False, False])
    table = pool([1, 1, 1, 0, 1, 0])
    found = find_candidates(table, 2, 0, usable, outside=outside, text_only="exclude")
    assert sorted(found.rows.tolist()) == [0, 4] and found.notes == {
        "missing_value": 1,
        "out_of_range": 1,
        "text_only": 2,
    }
    with pytest.raises(
        BudgetError, match="1 rows are missing_value, 1 rows are out_of_range, 2 rows are text_only"
    ) as error:
        find_candidates(table, 3, 0, usable, outside=outside, text_only="exclude")
    assert error.value.available == 2


def test_text_only_rows_keep_their_share():
    table = pool([1] * 6 + [0] * 3)
    found = find_candidates(table, 6, 0, np.ones(9, bool), text_only="keep")
    assert found.budget == 4 and len(found.kept["text_only"]) == 2 == found.notes["text_only_kept"]
    selection = found.selection(table, np.arange(4), score=np.arange(4.0))
    assert selection.reason["part"].to_pylist() == ["picked"] * 4 + ["text_only"] * 2
    assert selection.reason["score"].to_pylist() == [0, 1, 2, 3, None, None]
    assert set(selection.rows[4:].tolist()) <= {6, 7, 8}
    everything = find_candidates(table, 9, 0, np.ones(9, bool), text_only="keep")
    assert everything.budget == 6 and len(everything.kept["text_only"]) == 3


def test_preselected_rows_count_towards_the_budget_and_are_no_candidates():
    table, taken = pool([1, 1, 1, 0]), np.array([True, False, False, True])
    found = find_candidates(
        table, 3, 0, np.array([False, True, True, True]), text_only="keep", preselected={"reference": taken}
    )
    assert sorted(found.rows.tolist()) == [1, 2] and found.budget == 1
    assert sorted(found.kept["reference"].tolist()) == [0, 3] and found.notes["missing_value"] == 0
    with pytest.raises(BudgetError) as error:
        find_candidates(table, 4, 0, np.array([False, True, False, True]), preselected={"reference": taken})
    assert error.value.available == 3


def test_equal_ids_are_ordered_by_row():
    table = pool([1] * 8).set_column(1, "id", pa.array(["same"] * 8))
    order, keys = by_hash(table, 3)
    assert order.tolist() == list(range(8)) and len(set(keys.tolist())) == 1
