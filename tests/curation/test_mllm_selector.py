"""mllm_selector: strata, allocation, the two ends of tau, noise and missing values."""

from collections import Counter, defaultdict

import numpy as np
import pyarrow as pa
import pytest
from selector_tables import plain_key, random_table

from curation.selectors import BudgetError, get_selector

select = get_selector("mllm_selector")


def stratified_random(table, budget, seed, strata):
    """Rows of a proportional stratified random sample: strata by largest remainders, rows by hash; one source."""
    samples = sorted(table.to_pylist(), key=lambda s: (s["nll"], plain_key(seed, s["id"])))
    members = defaultdict(list)
    for place, sample in enumerate(samples):
        members[place * strata // len(samples)].append(sample)
    exact = {k: len(rows) * budget / len(samples) for k, rows in members.items()}
    counts = {k: int(x + 1e-9) for k, x in exact.items()}
    for k in sorted(exact, key=lambda k: (-round(exact[k] - counts[k], 9), k))[: budget - sum(counts.values())]:
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


def test_small_tau_is_top_k_of_the_strata():
    table = random_table(1, 200, missing=0.0)
    found = select(table, 45, 0, tau=1e-4, noise_tail=0.0, strata=20)
    assert Counter(found.reason["stratum"].to_pylist()) == {19: 10, 18: 10, 17: 10, 16: 10, 15: 5}


def test_smaller_tau_leans_to_higher_necessity():
    table = random_table(2, 400, missing=0.0)
    means = [
        np.mean(select(table, 100, 0, tau=tau).reason["score"].to_pylist()) for tau in (float("inf"), 2.0, 0.5, 0.05)
    ]
    assert means == sorted(means) and means[-1] > means[0] + 1


def test_noise_tail_is_cut_and_missing_values_are_counted():
    nll = pa.array([float(i) for i in range(95)] + [None, float("nan"), float("inf"), float("-inf"), 95.0])
    table = pa.table({"row": np.arange(100), "id": [str(i) for i in range(100)], "source": ["s"] * 100, "nll": nll})
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
    table = pa.table({"row": np.arange(n), "id": [str(i) for i in range(n)], "source": sources, "nll": rng.random(n)})
    found = select(table, 100, 0, tau=float("inf"), noise_tail=0.0, strata=2)
    stratum_of = np.empty(n, int)
    stratum_of[np.argsort(table["nll"].to_numpy())] = np.arange(n) * 2 // n
    for k in (0, 1):
        sizes = Counter(np.array(sources)[stratum_of == k])
        picked = Counter(
            s
            for s, g in zip(found.reason["source"].to_pylist(), found.reason["stratum"].to_pylist(), strict=True)
            if g == k
        )
        for source, size in sizes.items():
            assert abs(picked[source] - size * 50 / 500) < 1
    assert found.reason["stratum"].to_pylist() == [1] * 50 + [0] * 50


def test_another_column_can_be_the_necessity():
    table = random_table(3, 50, missing=0.0).append_column("delta", pa.array(np.arange(50.0)))
    assert min(select(table, 5, 0, column="delta", tau=1e-3, noise_tail=0.0).rows) >= 45
