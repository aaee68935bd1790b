"""Each baseline by hand or against a plain loop, and on bad input."""

import math
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selector_tables import random_table, shuffled

from curation.selectors import BudgetError, ColumnError, SelectorError, SizeError
from curation.selectors import coincide as coincide_module
from curation.selectors import semdedup as semdedup_module
from curation.selectors.coincide import allocate, transferability
from curation.selectors.primitives import cosine
from curation.selectors.registry import get_selector

some = settings(max_examples=25, deadline=None)


def table(n: int | None = None, **columns) -> pa.Table:
    """row, id, source and n_images (one each), and these columns; lists of lists become float16 vectors."""
    n = n or len(next(iter(columns.values())))
    base = {"row": np.arange(n), "id": [f"r{i}" for i in range(n)], "source": ["s"] * n, "n_images": [1] * n}
    return pa.table(
        base
        | {
            name: vectors_of(values) if name.startswith(("emb", "clip_t", "clip_i")) else values
            for name, values in columns.items()
        }
    )


def vectors_of(values) -> pa.Array:
    width = next(len(v) for v in values if v is not None)
    return pa.array(
        [v if v is None else [float(x) for x in v] for v in values], pa.list_(pa.float16(), width)
    )


def picked(name: str, data: pa.Table, budget: int, seed: int = 0, **params) -> list[int]:
    return get_selector(name)(data, budget, seed, **params).rows.tolist()


# --- random


def test_matched_random_has_the_sources_of_the_reference():
    given = [True] * 6 + [False] * 24
    data = table(
        in_reference=given,
        source=(["a", "a", "a", "b", "b", "c"] + ["a"] * 4 + ["b"] * 4 + ["c"] * 4 + ["d"] * 12),
    )
    for seed in range(5):
        found = get_selector("matched_random")(data, 12, seed)
        assert Counter(found.reason["source"].to_pylist()) == {"a": 6, "b": 4, "c": 2}
        assert found.notes == {"missing_value": 0, "out_of_range": 12, "moved": 0}
    assert len({tuple(picked("matched_random", data, 6, seed)) for seed in range(6)}) > 3
    # 18 rows: 9, 6, 3 are wanted, a has 7: its two go to b and c
    found = get_selector("matched_random")(data, 18, 0)
    assert (
        Counter(found.reason["source"].to_pylist()) == {"a": 7, "b": 6, "c": 5} and found.notes["moved"] == 2
    )
    with pytest.raises(BudgetError, match="12 rows are out_of_range") as error:
        picked("matched_random", data, 19)
    assert error.value.available == 18


def test_matched_random_has_the_histograms_of_the_reference():
    rng = np.random.default_rng(0)
    length, images = rng.integers(1, 100, 400), rng.choice([0, 16, 64], 400)
    given = (length > 60) & (images > 0) & (rng.random(400) < 0.5)
    data = table(in_reference=given, text_tokens=length, image_tokens=images)
    rows = np.array(
        picked("matched_random", data, int(given.sum()), match=["length", "image_tokens"], bins=4)
    )
    edges = np.sort(length[given])[np.arange(4) * given.sum() // 4]
    cells = [
        Counter(zip(np.searchsorted(edges, length[r], "right").tolist(), images[r].tolist(), strict=True))
        for r in (rows, np.flatnonzero(given))
    ]
    assert {cell: n for cell, n in cells[0].items()} == dict(cells[1])
    assert length[given].min() <= length[rows].min() and length[rows].max() <= length[given].max()
    assert abs(length[rows].mean() - length[given].mean()) < 4 < abs(length.mean() - length[given].mean())


def test_matched_random_needs_something_to_match():
    with pytest.raises(SelectorError, match="no usable row is marked in_reference"):
        picked("matched_random", table(in_reference=[False, None]), 1)
    with pytest.raises(SelectorError, match="different keys"):
        picked("matched_random", table(in_reference=[True]), 1, match=["source", "source"])


def lengths(table, rows) -> int:
    return int(sum(np.asarray(table["text_tokens"])[rows] + np.asarray(table["image_tokens"])[rows]))


@pytest.mark.parametrize("longest", [True, False])
def test_token_matched_has_the_tokens_of_the_reference_in_other_rows(longest):
    rng = np.random.default_rng(1)
    text = rng.integers(1, 200, 3000)
    order = np.argsort(text)
    data = table(
        text_tokens=text,
        image_tokens=rng.choice([0, 16], 3000),
        in_reference=np.isin(np.arange(3000), order[-300:] if longest else order[:300]),
    )
    wanted = lengths(data, np.flatnonzero(data["in_reference"]))
    for seed in range(5):
        found = get_selector("token_matched")(data, 300, seed)
        assert abs(lengths(data, found.rows) / wanted - 1) <= 0.005
        assert found.notes["tokens"] == lengths(data, found.rows)
        assert found.notes["reference_tokens"] == wanted and found.notes["pool_rows"] == 3000
        assert found.surplus == len(found.rows) - 300 and (found.surplus > 0) == longest
        # all but the last are what random takes, which has no other preference
        first = picked("random", data, len(found.rows), seed)
        assert found.rows.tolist()[:-1] == first[:-1]
    assert len({tuple(picked("token_matched", data, 300, seed)) for seed in range(6)}) == 6


def test_token_matched_scales_with_the_budget():
    rng = np.random.default_rng(2)
    data = table(
        text_tokens=rng.integers(1, 50, 2000), image_tokens=[0] * 2000, in_reference=rng.random(2000) < 0.2
    )
    mean = lengths(data, np.flatnonzero(data["in_reference"])) / sum(data["in_reference"].to_pylist())
    for budget in (100, 400, 900):
        found = get_selector("token_matched")(data, budget, 0)
        assert abs(lengths(data, found.rows) / (mean * budget) - 1) <= 0.005


def test_the_last_row_of_token_matched_ends_within_the_tolerance():
    """Any two of the long rows are too few and three too many, so the last has to be looked for."""
    data = table(
        text_tokens=[700] * 20 + [280] * 2 + [1680],
        image_tokens=[0] * 23,
        in_reference=[False] * 22 + [True],
    )
    for seed in range(20):
        rows = picked("token_matched", data, 1, seed)
        assert lengths(data, rows) in range(1672, 1689)
        assert rows[:-1] == picked("random", data, 23, seed)[: len(rows) - 1]


def test_token_matched_says_what_it_cannot_do():
    data = table(text_tokens=[7, 7, 10, 10], image_tokens=[0] * 4, in_reference=[False, False, True, True])
    with pytest.raises(BudgetError, match="no random rows have the 40 to 40 tokens that 4") as error:
        picked("token_matched", data, 4)
    assert (rows := error.value.available) in (1, 2)
    assert lengths(data, picked("token_matched", data, rows)) == 10 * rows
    with pytest.raises(SelectorError, match="nothing to match"):
        picked("token_matched", table(text_tokens=[1], image_tokens=[0], in_reference=[False]), 1)
    with pytest.raises(ColumnError, match="unknown for 1 of 2 rows"):
        unknown = table(text_tokens=[1, None], image_tokens=[0, 0], in_reference=[True, True])
        picked("token_matched", unknown, 1)


# --- one column


def test_length_takes_the_ends_or_the_middle():
    data = table(text_tokens=[5, 1, 9, -3, None, 7], answer_tokens=[1, 2, 3, 4, 5, 6])
    assert picked("length", data, 2) == [2, 5]
    assert picked("length", data, 2, rule="bottom") == [1, 0]
    assert picked("length", data, 2, rule="mid") == [0, 5]
    assert picked("length", data, 1, column="answer_tokens") == [5]
    assert get_selector("length")(data, 4, 0).notes == {"missing_value": 1, "out_of_range": 1}


def test_perplexity_is_the_exponential_of_the_loss():
    data = table(base_nll=[0.0, 1.0, 2.0, 900.0, float("inf"), -0.5], nll=[3.0, 2.0, 1.0, 0.0, 4.0, 5.0])
    found = get_selector("perplexity")(data, 2, 0)
    assert found.rows.tolist() == [1, 2]
    np.testing.assert_allclose(found.reason["score"].to_pylist(), [math.e, math.e**2])
    assert found.notes == {"missing_value": 1, "out_of_range": 1}
    assert get_selector("perplexity")(data, 1, 0, rule="top").reason["score"].to_pylist() == [math.inf]
    assert picked("perplexity", data, 2, rule="top", model="seed") == [5, 4]


def test_el2n_is_at_most_the_square_root_of_two():
    data = table(base_el2n=[0.2, 1.41, 1.5, 0.9, -0.1, None])
    assert picked("el2n", data, 2) == [1, 3]
    assert get_selector("el2n")(data, 3, 0).notes == {"missing_value": 1, "out_of_range": 2}


def test_ifd_leaves_out_what_the_question_makes_worse():
    data = table(
        nll=[1.0, 2.0, 3.0, 1.0, 1.0, 0.5],
        nll_noq=[2.0, 2.5, 2.0, 0.0, None, 0.5],
        n_images=[1, 1, 1, 1, 1, 0],
    )
    found = get_selector("ifd")(data, 3, 0)
    assert found.rows.tolist() == [5, 1, 0] and found.reason["score"].to_pylist() == [1.0, 0.8, 0.5]
    assert found.notes == {"missing_value": 2, "out_of_range": 1}
    assert picked("ifd", data, 1, highest=math.inf) == [2]
    with pytest.raises(BudgetError, match="2 rows are missing_value, 1 rows are out_of_range") as error:
        picked("ifd", data, 4)
    assert error.value.available == 3


def test_visnec_takes_the_most_visual_of_each_cluster():
    data = table(
        base_nll_noimg=[3.0, 5.0, 4.0, 2.0, 9.0, 1.0, 3.0, 0.0],
        base_nll=[1.0, 1.0, 1.0, 1.0, 8.5, 2.0, None, 0.0],
        cluster_visnec=pa.array([0, 0, 0, 0, 7, 7, 7, 0], pa.int32()),
        n_images=[1, 1, 1, 1, 1, 1, 1, 0],
    )
    found = get_selector("visnec")(data, 3, 0, text_only="exclude")  # the clusters hold 4 and 2 usable rows
    assert sorted(found.rows.tolist()) == [1, 2, 4]
    assert sorted(found.reason["score"].to_pylist()) == [0.5, 3.0, 4.0]
    assert found.notes == {"missing_value": 1, "out_of_range": 0, "text_only": 1, "misleading": 0}
    assert get_selector("visnec")(data, 6, 0, text_only="exclude").notes["misleading"] == 1
    kept = get_selector("visnec")(data, 7, 0, text_only="keep")
    assert kept.rows.tolist()[-1] == 7 and kept.reason["part"].to_pylist()[-1] == "text_only"
    like_others = get_selector("visnec")(data, 7, 0)  # by default: its value is 0, the least of its cluster
    assert 7 in like_others.rows.tolist() and 7 not in get_selector("visnec")(data, 5, 0).rows.tolist()


def test_visnec_gives_every_cluster_a_row_and_no_more_than_the_budget():
    data = table(
        base_nll_noimg=np.arange(100.0),
        base_nll=[0.0] * 100,
        cluster_visnec=pa.array([0] * 90 + [1] * 6 + [2] * 4, pa.int32()),
    )

    def shares(budget, **params):
        return Counter(get_selector("visnec")(data, budget, 0, **params).reason["cluster"].to_pylist())

    # of 10: 9, 0.6 and 0.4; of 19: 17.1, 1.14 and 0.76; of 2: 1.8, 0.12 and 0.08
    assert shares(10) == {0: 8, 1: 1, 2: 1} and shares(10, variant="clean") == {0: 9, 1: 1}
    assert shares(19) == {0: 17, 1: 1, 2: 1} and shares(18) == {0: 16, 1: 1, 2: 1}
    assert shares(2) == {0: 1, 1: 1}


def test_clip_score_sets_text_only_rows_aside():
    data = table(clip_score=[0.3, 0.1, None, 0.2, float("nan"), 4000.0], n_images=[1, 1, 0, 1, 1, 1])
    found = get_selector("clip_score")(data, 2, 0)
    assert found.rows.tolist() == [0, 3]
    assert found.notes == {"missing_value": 1, "out_of_range": 1, "text_only": 1}
    assert picked("clip_score", data, 4, text_only="keep") == [0, 3, 1, 2]


def test_band_is_random_between_two_quantiles():
    data = table(base_nll=np.arange(100.0)[::-1].copy())
    rows = [picked("band", data, 20, seed, column="base_nll", low=0.1, high=0.4) for seed in range(3)]
    values = [99 - np.array(r) for r in rows]
    assert all((v >= 10).all() and (v < 40).all() for v in values) and rows[0] != rows[1]
    with pytest.raises(BudgetError, match="70 rows are out_of_range") as error:
        picked("band", data, 31, column="base_nll", low=0.1, high=0.4)
    assert error.value.available == 30


# --- vectors


def test_deita_skips_what_resembles_a_better_row():
    data = table(
        deita_score=[6.0, 9.0, 1.0, 5.0, None],
        emb_last_token=[[1, 0.01], [1, 0], [0, 1], [-1, 0], [0, -1]],
    )
    found = get_selector("deita")(data, 3, 0)  # 9, then 6 (a near copy), then 5, then 1
    assert found.rows.tolist() == [1, 3, 2] and found.reason["score"].to_pylist() == [9.0, 5.0, 1.0]
    with pytest.raises(BudgetError, match="raise threshold, or fill='score'") as error:
        picked("deita", data, 4)
    assert error.value.available == 3
    filled = get_selector("deita")(data, 4, 0, fill="score")
    assert filled.rows.tolist() == [1, 3, 2, 0] and filled.reason["filled"].to_pylist() == [False] * 3 + [
        True
    ]
    assert filled.notes == {"missing_value": 1, "out_of_range": 0, "filled": 1}
    assert picked("deita", data, 4, threshold=1.0) == [1, 0, 3, 2]
    data = data.append_column("n_turns", pa.array([1, 3, 1, 1, 1]))
    assert picked("deita", data, 4, threshold=1.0, variant="clean") == [0, 3, 1, 2]


def test_deita_within_clusters_compares_only_there():
    data = table(
        deita_score=[4.0, 3.0, 2.0],
        emb_last_token=[[1, 0]] * 3,
        cluster_text=pa.array([0, 1, 0], pa.int32()),
    )
    assert picked("deita", data, 2, within="text") == [0, 1]


def plain_semdedup(near, clusters, order, threshold):
    kept = []
    for i in order:
        if all(near[i, j] <= threshold for j in kept if clusters[j] == clusters[i]):
            kept.append(i)
    return kept


@given(st.integers(0, 10**6), st.integers(2, 30), st.data())
@some
def test_semdedup_keeps_the_budget_by_one_threshold(seed, n, data):
    rng = np.random.default_rng(seed)
    vectors = np.round(rng.normal(0, 1, (n, 3)), 1)
    clusters, similarity = rng.integers(0, 3, n).astype(np.int32), np.round(rng.random(n), 3)
    budget = data.draw(st.integers(1, n))
    pool = table(emb_last_token=vectors.tolist(), cluster_semdedup=clusters, similarity_semdedup=similarity)
    found = get_selector("semdedup")(pool, budget, 0, variant="clean")
    assert len(found.rows) == budget
    units = cosine.unit(vectors.astype(np.float16))
    near, threshold = cosine.cosines(units, units), 1 - found.notes["epsilon_e6"] / 1e6
    if len(np.unique(similarity)) == n:  # ties would go by the hash
        # the threshold is a multiple of STEP, the note is rounded to millionths
        steps = round(threshold / cosine.STEP)
        kept = plain_semdedup(near, clusters, np.argsort(similarity).tolist(), steps * cosine.STEP)
        assert set(found.rows.tolist()) <= set(kept) and len(kept) == budget + found.notes["trimmed"]
        if threshold > -1:
            fewer = plain_semdedup(near, clusters, np.argsort(similarity).tolist(), (steps - 1) * cosine.STEP)
            assert len(fewer) < budget


def test_semdedup_by_hand():
    data = table(
        emb_last_token=[[1, 0], [1, 0.1], [1, 0.1], [0, 1], None, None],
        cluster_semdedup=pa.array([0, 0, 0, 0, None, None], pa.int32()),
        similarity_semdedup=[0.9, 0.8, 0.7, 0.2, None, None],
        n_images=[1, 1, 1, 1, 0, 1],
    )
    assert picked("semdedup", data, 3, variant="clean", text_only="exclude") == [3, 2, 0]
    assert picked("semdedup", data, 3, variant="clean", keep="easy", text_only="exclude") == [0, 1, 3]
    # 2 is dropped at 1 - epsilon < .0995, its cosine to 3; 0 is at right angles to 3
    found = get_selector("semdedup")(data, 2, 0, variant="clean", text_only="exclude")
    assert found.rows.tolist() == [3, 0] and found.reason["similarity"].to_pylist() == [None, 0.0]
    found = get_selector("semdedup")(
        data, 4, 0, variant="clean", text_only="keep"
    )  # 4 rows with an image, 1 without: a fifth of the budget rounds to 1
    assert found.rows.tolist() == [3, 2, 0, 4] and found.notes["missing_value"] == 1
    with pytest.raises(BudgetError) as error:
        picked("semdedup", data, 5, text_only="exclude")
    assert error.value.available == 4


def test_semdedup_refuses_clusters_that_are_too_large(monkeypatch):
    monkeypatch.setattr(semdedup_module, "PAIR_LIMIT", 15)
    data = table(
        emb_last_token=[[1, 0]] * 4,
        cluster_semdedup=pa.array([0] * 4, pa.int32()),
        similarity_semdedup=[0.1] * 4,
    )
    with pytest.raises(SizeError, match="use more clusters") as error:
        picked("semdedup", data, 2, variant="clean")
    assert error.value.size == 16


def test_published_semdedup_by_hand(monkeypatch):
    angles = [0, 20, 40, 60, 0]
    data = table(
        emb_last_token=[[100 * math.cos(math.radians(a)), 100 * math.sin(math.radians(a))] for a in angles],
        cluster_semdedup=pa.array([0, 0, 0, 0, 1], pa.int32()),
        similarity_semdedup=[0.1, 0.2, 0.3, 0.4, 0.9],
    )
    # 1 to 3 lie 20 degrees from the row before them, which counts although it is itself the next to go
    found = get_selector("semdedup")(data, 5, 0)
    assert set(found.rows.tolist()[:2]) == {0, 4}
    np.testing.assert_allclose(
        [value or 0 for value in found.reason["similarity"].to_pylist()],
        [0, 0] + [math.cos(math.radians(20))] * 3,
        atol=1e-3,
    )
    kept = get_selector("semdedup")(data, 3, 0, variant="clean")
    assert sorted(kept.rows.tolist()) == [0, 3, 4], "1 is dropped by 0, then 2 is 40 degrees from 0"
    monkeypatch.setattr(semdedup_module, "COMPARED_LIMIT", 16)
    with pytest.raises(SizeError, match="use more clusters"):
        picked("semdedup", data, 2)


@given(st.integers(0, 10**6), st.integers(1, 25), st.sampled_from(["sum", "product"]))
@some
def test_d2_equals_a_plain_loop(seed, n, mode):
    rng = np.random.default_rng(seed)
    vectors, score = np.round(rng.normal(0, 1, (n, 3)), 1), np.round(rng.random(n), 3)
    units = cosine.unit(vectors.astype(np.float16))
    near = cosine.cosines(units, units)
    distance = np.sqrt(2 - 2 * near)
    # nearest of equal distance, and picks of equal density, go by the hash: leave such tables out
    if (
        len(np.unique(near[np.triu_indices(n, 1)])) < n * (n - 1) // 2
        or len(np.unique(score)) < n
        or not score.all()
    ):
        return
    around = [sorted((j for j in range(n) if j != i), key=lambda j: -near[i, j])[:3] for i in range(n)]
    message = [sum(math.exp(-distance[i, j]) * score[j] for j in around[i]) for i in range(n)]
    density = [score[i] * message[i] if mode == "product" else score[i] + message[i] for i in range(n)]
    left, wanted = list(density), []
    while len(wanted) < n:
        at = max((i for i in range(n) if i not in wanted), key=lambda i: left[i])
        wanted.append(at)
        for j in around[at]:
            if j not in wanted and left[at] > 0:
                left[j] -= math.exp(-0.4 * distance[at, j]) * left[at]
    found = get_selector("d2")(
        table(base_el2n=score, emb_text=vectors.tolist()),
        n,
        0,
        variant="clean",
        vectors="emb_text",
        neighbours=3,
        mode=mode,
    )
    np.testing.assert_allclose(
        found.reason["density"].to_pylist(), [density[i] for i in found.rows.tolist()], rtol=1e-9
    )
    if n > 1 and mode == "sum":
        assert found.rows.tolist() == wanted


def test_d2_spreads_over_the_neighbourhoods():
    score = [1.0, 0.99, 0.98, 0.5, 0.49, 0.48]
    vectors = [[1, 0], [1, 0.01], [1, 0.02], [0, 1], [0.01, 1], [0.02, 1]]
    data = table(base_el2n=score, emb_text=vectors)
    rows = picked("d2", data, 2, variant="clean", vectors="emb_text", neighbours=2, gamma=0.0)
    assert {rows[0] < 3, rows[1] < 3} == {True, False}, "a pick takes all from its neighbours at gamma 0"
    assert sorted(picked("d2", data, 2, variant="clean", vectors="emb_text", neighbours=2, gamma=1e9)) < [3]


def test_published_d2_reads_margins_and_clean_refuses_negative_ones():
    data = table(
        base_margin=[-0.5, 0.9, -0.1, 0.2],
        base_el2n=[1.1, 0.1, 0.9, 0.5],
        emb_token_mean=[[0, 0], [3, 0], [0, 40], [40, 0]],
    )
    # 0 hears 0.9 exp(-9) of 1, the two far away nothing
    found = get_selector("d2")(data, 4, 0, neighbours=1, gamma=9.0)
    assert found.rows.tolist() == [1, 3, 0, 2]
    np.testing.assert_allclose(
        found.reason["density"].to_pylist(), [0.9, 0.2, 0.9 * math.exp(-9), 1e-7], rtol=2e-3
    )
    refused = get_selector("d2")(data, 2, 0, variant="clean", column="base_margin")
    assert sorted(refused.rows.tolist()) == [1, 3] and refused.notes["out_of_range"] == 2


def test_coincide_transferability_and_allocation_by_hand():
    centroids = cosine.unit(np.array([[1, 0], [0.8, 0.6], [0, 1], [0.99, 0.1]]))
    # to the others: 0.8, 0, (> 0.9 counts 0); 0.8, 0.6, 0.85..; 0, 0.6, 0.1; ...
    found = transferability(centroids, clean=True)
    np.testing.assert_allclose(found[0], (0.8 + 0 + 0) / 3, atol=1e-5)
    np.testing.assert_allclose(found[2], (0 + 0.6 + 0.1 / math.hypot(0.99, 0.1)) / 3, atol=1e-5)
    published = transferability(centroids)  # the first centroid has two others that are not near copies
    np.testing.assert_allclose(published[0], (0.8 + 0) / 2, atol=1e-5)
    np.testing.assert_allclose(published[2], found[2], atol=1e-5)
    assert transferability(centroids[:1]).tolist() == [0.0]
    sizes = np.array([100, 100, 100])
    assert allocate(sizes, np.log([1.0, 2.0, 1.0]), 40).tolist() == [10, 20, 10]
    # 24 · 2/3 = 16 but 5 are there; then 19 · 1/2 = 9.5 -> 10; then the last
    small = np.array([100, 5, 100])
    assert allocate(small, np.log([1.0, 4.0, 1.0]), 24, clean=True).tolist() == [10, 5, 9]
    # halves go to the even number: 9.5 to 10, but 8.5 to 8
    assert allocate(small, np.log([1.0, 4.0, 1.0]), 24).tolist() == [10, 5, 9]
    assert allocate(small, np.log([1.0, 4.0, 1.0]), 22).tolist() == [8, 5, 9]
    assert allocate(small, np.log([1.0, 4.0, 1.0]), 22, clean=True).tolist() == [9, 5, 8]
    assert allocate(np.array([3, 3, 3]), np.array([0.0, 800.0, -800.0]), 8).tolist() == [3, 3, 2]


@given(st.lists(st.tuples(st.integers(1, 20), st.floats(-1000, 1000)), min_size=1, max_size=10), st.data())
@some
def test_coincide_allocation_is_exact_and_capped(clusters, data):
    sizes, lift = np.array([c[0] for c in clusters]), np.array([c[1] for c in clusters])
    budget = data.draw(st.integers(0, int(sizes.sum())))
    counts = allocate(sizes, lift, budget)
    assert counts.sum() == budget and (counts >= 0).all() and (counts <= sizes).all()


def test_coincide_prefers_sparse_clusters():
    tight, loose = (
        [[1, 0.001 * i] for i in range(10)],
        [[math.cos(0.5 + i / 10), math.sin(0.5 + i / 10)] for i in range(10)],
    )
    data = table(emb_text=tight + loose, cluster_coincide=pa.array([0] * 10 + [1] * 10, pa.int32()))
    found = get_selector("coincide")(data, 8, 0, variant="clean", vectors="emb_text", transfer="emb_text")
    assert Counter(found.reason["cluster"].to_pylist()) == {
        0: 3,
        1: 5,
    }  # softmax(.582 / .1, .582 / .0913) = .37, .63
    reason = dict(zip(found.reason["cluster"].to_pylist(), found.reason["density"].to_pylist(), strict=True))
    angles = [(i - j) / 10 for i in range(10) for j in range(10) if i != j]
    np.testing.assert_allclose(reason[1], np.mean([math.exp(math.cos(a) - 1) for a in angles]), rtol=1e-3)
    assert len(set(found.reason["transferability"].to_pylist())) == 1, (
        "two clusters are equally near to one another"
    )


def test_coincide_picks_the_same_without_kept_kernels(monkeypatch):
    data = random_table(5, 200, missing=0.0)
    first = picked("coincide", data, 60)
    monkeypatch.setattr(coincide_module, "KEPT", 0)
    assert picked("coincide", data, 60) == first
    # the transfer column read by itself gives the centroids that the joined vectors give
    pair = ["emb_tanh_attention_image", "emb_tanh_attention_text"]
    apart = get_selector("coincide")(data, 60, 0, vectors=pair[:1], transfer=pair[1])
    both = get_selector("coincide")(data, 60, 0, vectors=pair, transfer=pair[1])
    of = [
        dict(zip(*(found.reason[name].to_pylist() for name in ("cluster", "transferability")), strict=True))
        for found in (apart, both)
    ]
    shared = set(of[0]) & set(of[1]) - {None}
    assert len(shared) > 1
    np.testing.assert_allclose(*([each[name] for name in sorted(shared)] for each in of), atol=1e-5)


def presel_table(reference: list[bool]) -> pa.Table:
    """Two tasks of eight rows, each of two clusters of 6 and 2 rows; IRS .5 in a, 1 in b."""
    angle = [0, 0.1, 0.2, 0.3, 0.9, 1.0, 3.0, 3.1]
    return table(
        source=["a"] * 8 + ["b"] * 8,
        nll=[1.0] * 16,
        nll_noq=[2.0] * 8 + [1.0] * 8,
        emb_dino=[[math.cos(a), math.sin(a)] for a in angle * 2],
        cluster_presel=pa.array([0, 0, 0, 0, 0, 0, 1, 1] * 2, pa.int32()),
        in_seed=reference,
    )


def test_presel_shares_by_task_and_cluster_and_takes_the_typical():
    data = presel_table([False] * 16)
    # temperature 1 / sqrt(2): weights exp(-.5 · 1.414), exp(-1 · 1.414) = .67 : .33
    found = get_selector("presel")(data, 6, 0, variant="clean", reference=None, neighbours=2)
    assert Counter(found.reason["source"].to_pylist()) == {"a": 4, "b": 2}
    assert Counter(
        zip(found.reason["source"].to_pylist(), found.reason["cluster"].to_pylist(), strict=True)
    ) == {("a", 0): 3, ("a", 1): 1, ("b", 0): 2}
    assert set(found.reason["irs"].to_pylist()) == {0.5, 1.0}
    inside = [r for r in found.rows.tolist() if r < 6]
    assert len(inside) == 3 and set(inside) <= {0, 1, 2, 3}, "4 and 5 lie apart"
    hot = get_selector("presel")(data, 6, 0, reference=None, temperature=math.inf)
    assert Counter(hot.reason["source"].to_pylist()) == {"a": 3, "b": 3}
    # 4.02 and 1.98 rows: their floors, and the row that is left to a; inside a 3.75 and 1.25 are rounded
    published = get_selector("presel")(data, 6, 0, reference=None, neighbours=2)
    cells = zip(*(published.reason[name].to_pylist() for name in ("source", "cluster")), strict=True)
    assert Counter(cells) == {("a", 0): 4, ("a", 1): 1, ("b", 0): 1} and published.notes["filled"] == 0
    # a should get 11 of 15 and has 8: the others are random rows, here of b
    full = get_selector("presel")(data, 15, 0, reference=None)
    assert full.notes["filled"] == 15 - 8 - 4


def test_presel_counts_the_reference_part():
    reference = [True] + [False] * 14 + [True]
    found = get_selector("presel")(presel_table(reference), 8, 0)
    assert set(found.rows.tolist()) >= {0, 15} and len(found.rows) == 8
    assert found.reason["part"].to_pylist() == ["picked"] * 6 + ["reference"] * 2
    only_a = get_selector("presel")(presel_table([True, True] + [False] * 14), 8, 0)
    assert only_a.notes["tasks_without_irs"] == 1
    assert Counter(only_a.reason["source"].to_pylist()) == {"a": 5, "b": 3}, (
        "equal weights, and the reference beside"
    )
    with pytest.raises(SelectorError, match="the budget of 2 must exceed the 2 rows of the reference part"):
        picked("presel", presel_table(reference), 2)
    with pytest.raises(BudgetError, match="no row of the reference part has the losses") as error:
        picked("presel", presel_table([False] * 16), 8)
    assert error.value.available == 0


@given(st.integers(0, 10**6), st.integers(10, 60), st.integers(0, 99))
@some
def test_presel_with_a_reference_part_is_exact_and_invariant(table_seed, n, seed):
    data = random_table(table_seed, n)
    paid = sum(data["in_seed"].to_pylist())
    try:
        first = get_selector("presel")(data, budget := n // 2, seed)
    except BudgetError as error:
        assert error.requested == n // 2 and error.available < n // 2
        return
    second = get_selector("presel")(shuffled(data, seed), budget, seed)
    assert len(first.rows) == budget and first.rows.tolist() == second.rows.tolist()
    assert first.reason["part"].to_pylist().count("reference") == paid


# --- influence


def test_icons_counts_votes_and_breaks_ties_by_rank():
    data = table(
        influence_x=[0.9, 0.8, 0.1, 0.2, 0.3, None],
        influence_y=[0.1, 0.7, 0.9, 0.8, 0.2, 1.0],
        influence_z=[0.5, 0.6, 0.4, 0.9, 0.1, 1.0],
    )
    # two of five rows get the vote of each task: x 0 1, y 2 3, z 3 1
    clean = {"variant": "clean"}
    found = get_selector("icons")(data, 4, 0, percent=40, **clean)
    assert found.rows.tolist()[:2] == [1, 3] and found.reason["votes"].to_pylist() == [2, 2, 1, 1]
    # ranks of 1: 2 3 2, of 3: 4 2 1; of 0: 1 5 3, of 2: 5 1 4
    np.testing.assert_allclose(found.reason["mean_rank"].to_pylist(), [7 / 3, 7 / 3, 9 / 3, 10 / 3])
    assert found.rows.tolist()[2:] == [0, 2] and found.notes["missing_value"] == 1
    assert picked("icons", data, 2, tasks=["y"], **clean) == [5, 2]
    assert (
        get_selector("icons")(data, 5, 0, percent=20, **clean).notes["without_vote"] == 2
    )  # 0, 2 and 3 have one each


def test_icons_as_published_interpolates_percentiles_and_breaks_ties_at_random():
    data = table(influence_x=np.arange(10.0), influence_y=np.arange(10.0))
    # 25 % of ten rows: the percentile lies between the seventh and the eighth value
    assert get_selector("icons")(data, 10, 0, percent=25).notes["without_vote"] == 7
    assert get_selector("icons")(data, 10, 0, percent=25, variant="clean").notes["without_vote"] == 8
    picks = {tuple(sorted(picked("icons", data, 3, seed, percent=60))) for seed in range(9)}
    assert len(picks) > 3 and all(min(rows) >= 4 for rows in picks)
    assert picked("icons", data, 3, percent=60, variant="clean") == [9, 8, 7]


def test_icons_takes_the_raw_influence_on_mme_alone():
    columns = {f"influence_{task}": [0.0, 0.0, 1.0] for task in ("mme", "vqa")}
    raw = {f"raw_influence_{task}": [1.0, 0.0, 0.0] for task in ("mme", "vqa")}
    data = table(**columns, **raw)

    def votes(**params):
        found = get_selector("icons")(data, 3, 0, percent=30, **params)
        return dict(zip(found.rows.tolist(), found.reason["votes"].to_pylist(), strict=True))

    assert votes() == {0: 1, 1: 0, 2: 1} and votes(variant="clean") == {0: 0, 1: 0, 2: 2}
    assert votes(unnormalised=[]) == {0: 0, 1: 0, 2: 2}
    assert votes(variant="clean", unnormalised=["mme", "vqa"]) == {0: 2, 1: 0, 2: 0}
    with pytest.raises(SelectorError, match="unnormalised names 'ocr', which is not one of mme, vqa"):
        votes(unnormalised=["ocr"])
    with pytest.raises(ColumnError, match="raw_influence_mme"):
        picked("icons", table(**columns), 1)


def test_less_takes_the_highest_influence_on_any_task():
    columns = {"influence_x": [0.1, 0.9, 0.3, None], "influence_y": [0.8, 0.0, 0.4, 1.0]}
    data = table(
        **{f"adam_{name}": values for name, values in columns.items()}, influence_x=[0.0, 0.1, 0.2, 0.3]
    )
    found = get_selector("less")(data, 3, 0)
    assert found.rows.tolist() == [1, 0, 2]
    assert found.reason["task"].to_pylist() == ["x", "y", "y"] and found.reason["score"].to_pylist() == [
        0.9,
        0.8,
        0.4,
    ]
    assert picked("less", data, 3, adam=False) == [3, 2, 1], "plain gradients are other columns"
    clean = data.append_column("clean_adam_influence_y", pa.array([0.1, 0.2, 0.3, 0.4]))
    assert picked("less", clean, 3, variant="clean") == [3, 2, 1], "and so is Adam's own update"
    assert picked("less", clean, 3) == [1, 0, 2]
    assert picked("less", table(**columns), 3, adam=False) == [1, 0, 2]
    with pytest.raises(ColumnError, match="adam_influence_<task>"):
        picked("less", table(**columns), 1)


# --- quotas by group


def test_quota_by_group_composes_allocation_and_pick():
    data = table(
        source=["a"] * 6 + ["b"] * 3 + ["c"],
        value=[1.0, 2, 3, 4, 5, 6, 1, 2, 3, None],
        cluster_text=pa.array([0, 1] * 4 + [0, None], pa.int32()),
    )
    assert Counter(picked("quota_by_group", data, 10)) == Counter(range(10))
    assert picked("quota_by_group", data, 4, allocation="equal", pick="top", score="value") == [5, 8, 4, 7]
    shares = get_selector("quota_by_group")(data, 4, 0, allocation="explicit", shares={"a": 3, "b": 1})
    assert (
        Counter(shares.reason["group"].to_pylist()) == {"a": 3, "b": 1} and shares.notes["out_of_range"] == 1
    )
    pairs = get_selector("quota_by_group")(data, 4, 0, group=["source", "cluster_text"], allocation="equal")
    assert (
        sorted(pairs.reason["group"].to_pylist()) == ["a / 0", "a / 1", "b / 0", "b / 1"]
        and pairs.notes["missing_value"] == 1
    )
    soft = get_selector("quota_by_group")(data, 3, 0, allocation="softmax", stat="value", tau=0.01)
    assert soft.reason["group"].to_pylist() == ["a"] * 3, "the mean of a is 3.5, that of b 2"
    with pytest.raises(SelectorError, match="the group 'x', which no row has; groups are a, b, c"):
        picked("quota_by_group", data, 2, allocation="explicit", shares={"x": 1})
    for params, message in (
        ({"pick": "top"}, "parameter score"),
        ({"pick": "mmd"}, "parameter vectors"),
        ({"allocation": "softmax"}, "parameter stat"),
    ):
        with pytest.raises(SelectorError, match=message):
            picked("quota_by_group", data, 2, **params)
    with pytest.raises(BudgetError) as error:
        picked("quota_by_group", data, 4, allocation="explicit", shares={"b": 1})
    assert error.value.available == 3


# --- bad input of all kinds

SCORED = [
    ("length", {}, "text_tokens"),
    ("perplexity", {"rule": "top"}, "base_nll"),
    ("el2n", {}, "base_el2n"),
    ("clip_score", {}, "clip_score"),
    ("top_k", {"column": "value"}, "value"),
]


@pytest.mark.parametrize(("name", "params", "column"), SCORED)
def test_equal_scores_are_picked_at_random_and_nan_never(name, params, column):
    data = table(**{column: [0.5] * 30 + [float("nan")] * 10})
    picks = [picked(name, data, 10, seed, **params) for seed in range(3)]
    assert len({tuple(p) for p in picks}) == 3 and all(max(p) < 30 for p in picks)
    everything = table(**{column: [0.5] * 30})
    assert picked(name, everything, 10, 0, **params) == picked("random", everything, 10, 0)


@pytest.mark.parametrize(
    "name", ["visnec", "semdedup", "d2", "coincide", "presel", "icons", "deita", "matched_random"]
)
def test_a_pool_of_one_source_equal_scores_and_one_vector(name):
    n = 12
    flat = {
        c: [1.0] * n
        for c in (
            "nll",
            "nll_noq",
            "base_nll",
            "base_nll_noimg",
            "base_el2n",
            "base_margin",
            "deita_score",
            "influence_x",
        )
    }
    names = ("coincide", "semdedup", "presel", "visnec")
    clusters = {f"cluster_{c}": pa.array([3] * n, pa.int32()) for c in names}
    halves = ("tanh_attention_image", "tanh_attention_text")
    same = {f"emb_{c}": [[1.0, 2.0]] * n for c in ("last_token", "token_mean", "dino", *halves)}
    data = table(
        **flat,
        **clusters,
        **same,
        similarity_semdedup=[1.0] * n,
        in_seed=[True] + [False] * 11,
        in_reference=[True] * n,
    )
    params = {"deita": {"fill": "score"}}.get(name, {})
    rows = {seed: picked(name, data, 7, seed, **params) for seed in range(4)}
    assert all(len(set(r)) == 7 for r in rows.values()) and len({tuple(r) for r in rows.values()}) > 1
    assert sorted(picked(name, data, n, 0, **params)) == list(range(n))


@pytest.mark.parametrize("name", ["visnec", "clip_score", "semdedup", "d2", "coincide", "presel"])
def test_text_only_rows_are_excluded_or_keep_their_share(name):
    data = random_table(4, 200, missing=0.0)
    images = dict(zip(data["row"].to_pylist(), data["n_images"].to_pylist(), strict=True))
    free = {"reference": None} if name == "presel" else {}
    excluded = get_selector(name)(data, 100, 0, text_only="exclude", **free)
    kept = get_selector(name)(data, 100, 0, text_only="keep", **free)
    without = sum(n == 0 for n in images.values())
    assert all(images[r] for r in excluded.rows.tolist()) and excluded.notes["text_only"] == without
    assert (
        sum(images[r] == 0 for r in kept.rows.tolist()) == kept.notes["text_only_kept"] == round(without / 2)
    )
    with pytest.raises(BudgetError) as error:
        get_selector(name)(data, 200, 0, text_only="exclude", **free)
    assert error.value.available == 200 - without
    assert len(get_selector(name)(data, 200, 0, text_only="keep", **free).rows) == 200


def test_a_pool_without_any_image_has_nothing_for_image_signals():
    data = random_table(4, 20).drop_columns("n_images").append_column("n_images", pa.array([0] * 20))
    for name in ("visnec", "clip_score"):
        with pytest.raises(BudgetError, match="20 rows are text_only") as error:
            picked(name, data, 5, text_only="exclude")
        assert error.value.available == 0


@pytest.mark.parametrize("name", ["presel", "d2"])
def test_more_neighbours_than_rows_are_all_the_others(name):
    params = {"reference": None, "text_only": "keep"} if name == "presel" else {}
    data = random_table(8, 30, missing=0.0)
    assert picked(name, data, 12, neighbours=1000, **params) == picked(
        name, data, 12, neighbours=29, **params
    )
