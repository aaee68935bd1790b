"""mllm_selector: strata, allocation, the two ends of tau, noise and missing values."""

import hashlib
from collections import Counter, defaultdict

import numpy as np
import pyarrow as pa
import pytest
from selector_tables import plain_key, random_table

from curation.selectors import BudgetError, SelectorError
from curation.selectors.registry import get_selector, needs

select = get_selector("mllm_selector")


def stratified_random(table, budget, seed, strata):
    """Rows of a proportional stratified random sample: strata by largest remainders, rows by hash; one
    source.
    """
    samples = sorted(table.to_pylist(), key=lambda s: (s["nll"], plain_key(seed, s["id"])))
    members = defaultdict(list)
    for place, sample in enumerate(samples):
        members[place * strata // len(samples)].append(sample)
    exact = {k: len(rows) * budget / len(samples) for k, rows in members.items()}
    counts = {k: int(x + 1e-9) for k, x in exact.items()}
    for k in sorted(exact, key=lambda k: (-round(exact[k] - counts[k], 9), k))[
        : budget - sum(counts.values())
    ]:
        counts[k] += 1
    return {
        s["row"]
        for k, rows in members.items()
        for s in sorted(rows, key=lambda s: plain_key(seed, s["id"]))[: counts[k]]
    }


@pytest.mark.parametrize("case", range(40))
def test_infinite_tau_is_proportional_stratified_random(case):
    rng = np.random.default_rng(case)
    n, strata = int(rng.integers(5, 120)), int(rng.integers(1, 12))
    table = random_table(case, n, missing=0.0)
    table = table.set_column(2, "source", pa.array(["one"] * n))
    budget = int(rng.integers(1, n + 1))
    found = select(table, budget, case, tau=float("inf"), noise_tail=0.0, strata=strata)
    assert set(found.rows.tolist()) == stratified_random(table, budget, case, strata)


def systematic(rows, count, offset):
    """`count` of the samples `rows` by systematic sampling over sources in order of name, in each by hash."""
    by_source = defaultdict(list)
    for sample in sorted(rows, key=lambda s: s["key"]):
        by_source[sample["source"]].append(sample["row"])
    line = [row for name in sorted(by_source) for row in by_source[name]]
    # points at steps of len / count along the rows: a source gets a row for each point that falls on its part
    points = [-(-(place * len(line) - offset) // count) - 1 for place in range(1, count + 1)]
    picked, at = [], 0
    for name in sorted(by_source):
        stretch = range(at, at + len(by_source[name]))
        picked += by_source[name][: sum(point in stretch for point in points)]
        at += len(by_source[name])
    return picked


@pytest.mark.parametrize("case", range(40))
def test_infinite_tau_is_proportional_stratified_random_over_sources_too(case):
    rng = np.random.default_rng(case)
    n, strata = int(rng.integers(5, 120)), int(rng.integers(1, 9))
    table = random_table(case, n, missing=0.0)
    budget = int(rng.integers(1, n + 1))
    found = select(table, budget, case, tau=float("inf"), noise_tail=0.0, strata=strata)
    samples = sorted(
        ({**s, "key": plain_key(case, s["id"])} for s in table.to_pylist()),
        key=lambda s: (s["nll"], s["key"]),
    )
    members = defaultdict(list)
    for place, sample in enumerate(samples):
        members[place * strata // n].append(sample)
    counts = Counter(found.reason["stratum"].to_pylist())
    expected = []
    for k in sorted(counts, reverse=True):
        digest = hashlib.blake2b(f"{case}:{k}".encode(), digest_size=8).digest()
        expected += systematic(members[k], counts[k], int.from_bytes(digest, "little") % len(members[k]))
        assert abs(counts[k] - len(members[k]) * budget / n) < 1
    assert sorted(found.rows.tolist()) == sorted(expected)


def test_small_tau_is_top_k_of_the_strata():
    table = random_table(1, 200, missing=0.0)
    found = select(table, 45, 0, tau=1e-4, noise_tail=0.0, strata=20)
    assert Counter(found.reason["stratum"].to_pylist()) == {19: 10, 18: 10, 17: 10, 16: 10, 15: 5}


def test_smaller_tau_leans_to_higher_necessity():
    table = random_table(2, 400, missing=0.0)
    means = [
        np.mean(select(table, 100, 0, tau=tau).reason["score"].to_pylist())
        for tau in (float("inf"), 2.0, 0.5, 0.05)
    ]
    assert means == sorted(means) and means[-1] > means[0] + 1


def test_noise_tail_is_cut_and_missing_values_are_counted():
    nll = pa.array([float(i) for i in range(95)] + [None, float("nan"), float("inf"), float("-inf"), 95.0])
    table = pa.table(
        {"row": np.arange(100), "id": [str(i) for i in range(100)], "source": ["s"] * 100, "nll": nll}
    )
    found = select(table, 92, 0, noise_tail=0.05)
    assert found.notes == {"missing_value": 4, "noise_tail": 4}
    assert set(found.rows.tolist()) == set(range(92))  # 96 known, the 4 highest (95.0 and rows 92-94) cut
    with pytest.raises(BudgetError) as error:
        select(table, 93, 0, noise_tail=0.05)
    assert error.value.available == 92


def test_sources_share_in_proportion_inside_a_stratum():
    n = 1000
    sources = ["a"] * 700 + ["b"] * 290 + ["c"] * 10
    rng = np.random.default_rng(0)
    table = pa.table(
        {"row": np.arange(n), "id": [str(i) for i in range(n)], "source": sources, "nll": rng.random(n)}
    )
    found = select(table, 100, 0, tau=float("inf"), noise_tail=0.0, strata=2)
    stratum_of = np.empty(n, int)
    stratum_of[np.argsort(table["nll"].to_numpy())] = np.arange(n) * 2 // n
    for k in (0, 1):
        sizes = Counter(np.array(sources)[stratum_of == k])
        picked = Counter(
            s
            for s, g in zip(
                found.reason["source"].to_pylist(), found.reason["stratum"].to_pylist(), strict=True
            )
            if g == k
        )
        for source, size in sizes.items():
            assert abs(picked[source] - size * 50 / 500) < 1
    assert found.reason["stratum"].to_pylist() == [1] * 50 + [0] * 50


def test_another_column_can_be_the_necessity():
    table = random_table(3, 50, missing=0.0).append_column("delta", pa.array(np.arange(50.0)))
    assert min(select(table, 5, 0, column="delta", tau=1e-3, noise_tail=0.0).rows) >= 45


def losses_table(n=60):
    """nll rises with the row, base_nll falls, nll_noimg is nll plus a bump at the even rows; ten rows of five
    clusters.
    """
    at = np.arange(n, dtype=float)
    return pa.table(
        {
            "row": np.arange(n),
            "id": [f"i{k}" for k in range(n)],
            "source": ["s"] * n,
            "nll": at,
            "base_nll": 3 * at,
            "nll_noimg": at + (np.arange(n) % 2 == 0) * 5.0,
            "cluster_text": pa.array([None if k == 7 else k % 5 for k in range(n)], pa.int32()),
            "in_seed": np.arange(n) >= 50,
            "emb_last_token": pa.FixedSizeListArray.from_arrays(
                pa.array(np.stack([np.cos(at), np.sin(at)], 1).ravel(), pa.float32()), 2
            ),
        }
    )


def test_necessity_is_the_loss_its_change_or_the_images_part():
    table = losses_table()
    top = {"tau": 1e-3, "noise_tail": 0.0, "strata": 60}
    assert select(table, 5, 0, **top).rows.tolist() == [59, 58, 57, 56, 55]
    assert select(table, 5, 0, necessity="delta", **top).rows.tolist() == [0, 1, 2, 3, 4]
    assert all(row % 2 == 0 for row in select(table, 30, 0, necessity="visual", **top).rows)
    with pytest.raises(SelectorError, match=r"necessity must be one of .*, got 'loss'"):
        select(table, 5, 0, necessity="loss")


def test_what_is_needed_follows_the_parameters():
    assert needs("mllm_selector") == ("necessity",)
    assert needs("mllm_selector", {"necessity": "delta", "strata_by": "cluster_text"}) == (
        "necessity",
        "base_losses",
        "cluster_text",
    )
    assert needs("mllm_selector", {"necessity": "visual", "diversity": "mmd", "exclude_seed": True}) == (
        "necessity",
        "necessity_ablated",
        "embedding_last_token",
        "seed_rows",
    )
    assert needs("mllm_selector", {"necessity": "answer", "diversity": "kl"}) == ("answered",)
    by_cluster = {"diversity": "kl", "diversity_by": "cluster_visnec"}
    assert needs("mllm_selector", by_cluster) == ("necessity", "cluster_visnec")


def test_rows_of_the_seed_part_can_be_left_out():
    found = select(losses_table(), 50, 0, exclude_seed=True, noise_tail=0.0)
    assert found.notes["in_seed"] == 10 and found.rows.max() == 49
    with pytest.raises(BudgetError) as error:
        select(losses_table(), 51, 0, exclude_seed=True, noise_tail=0.0)
    assert error.value.available == 50


def test_groups_can_be_clusters_numbered_by_mean_necessity():
    found = select(losses_table(), 20, 0, strata_by="cluster_text", tau=float("inf"), noise_tail=0.0)
    assert found.notes["missing_cluster"] == 1 and 7 not in found.rows
    # cluster 2 lost row 7, so its mean is the highest of the five; the others rise with their number
    assert dict(
        zip(found.reason["stratum"].to_pylist(), found.reason["cluster_text"].to_pylist(), strict=True)
    ) == {0: 0, 1: 1, 2: 3, 3: 4, 4: 2}
    assert set(Counter(found.reason["cluster_text"].to_pylist()).values()) == {4}
    # with the lowest tau the cluster of the highest mean goes first, wholly
    assert {
        row % 5
        for row in select(losses_table(), 11, 0, strata_by="cluster_text", tau=1e-3, noise_tail=0.0).rows
    } == {2}


def test_inside_a_group_rows_can_be_far_from_each_other():
    table = losses_table()
    found = select(table, 3, 0, diversity="farthest", strata=1, noise_tail=0.0)
    angles = np.sort(found.rows.astype(float) % (2 * np.pi))
    assert np.diff(angles, append=angles[0] + 2 * np.pi).min() > 1.0
    assert found.notes["missing_vector"] == 0
    assert len(select(table, 30, 0, diversity="mmd", strata=4).rows) == 30


def test_with_kl_the_subset_follows_the_cells_of_all_rows_though_the_needed_ones_are_of_few():
    rows = 200
    # source a: 3 of 4 rows, and the lowest losses; b: the others, and the highest
    source = ["b" if row % 4 == 3 else "a" for row in range(rows)]
    nll = [row / rows + (2.0 if name == "b" else 0.0) for row, name in enumerate(source)]
    table = pa.table(
        {
            "row": pa.array(range(rows), pa.int32()),
            "id": [f"s{row}" for row in range(rows)],
            "source": source,
            "nll": nll,
            "cluster_x": pa.array([None if row == 5 else row % 2 for row in range(rows)], pa.int32()),
        }
    )
    settings = {"noise_tail": 0.0, "tau": 0.5, "strata": 4}
    count = {
        name: Counter(select(table, 60, 0, diversity=name, **settings).reason["source"].to_pylist())
        for name in ("source", "kl")
    }
    # without it, the high stratum's sources decide: b has most of the picks
    assert count["source"]["b"] > 30
    # with it, b keeps what only it can give: the stratum that it fills alone; all other picks are of a
    stratum = select(table, 60, 0, diversity="kl", **settings).reason
    alone = Counter(zip(stratum["stratum"].to_pylist(), stratum["source"].to_pylist(), strict=True))
    assert (
        count["kl"]["b"] == alone[3, "b"]
        and alone[3, "a"] == 0
        and set(alone) == {(3, "b"), (2, "a"), (1, "a"), (0, "a")}
    )
    found = select(table, 60, 0, diversity="kl", diversity_by="cluster_x", strata=1, noise_tail=0.0)
    assert found.notes["missing_cell"] == 1 and 5 not in found.rows
    assert Counter(row % 2 for row in found.rows.tolist()) == {0: 30, 1: 30}
