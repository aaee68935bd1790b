"""instructiongpt4: the shortlist in proportion to clusters, the best of it, exactly the budget."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from selector_tables import plain_key

from curation.selectors import BudgetError, SelectorError
from curation.selectors.registry import get_selector, needs

select = get_selector("instructiongpt4")


def table_of(sizes, seed=0, missing=0):
    rng = np.random.default_rng(seed)
    n = sum(sizes)
    clusters = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    return pa.table(
        {
            "row": np.arange(n),
            "id": [f"i{k}" for k in range(n)],
            "source": ["s"] * n,
            "n_images": np.where(np.arange(n) < n - missing, 1, 0),
            "value": pa.array(np.round(rng.standard_normal(n), 1), pa.float32()),
            "cluster_instructiongpt4": pa.array(
                [None if k >= n - missing else int(c) for k, c in enumerate(clusters)], pa.int32()
            ),
        }
    )


def oracle(table, budget, seed, over):
    """Rows, in order, by the rule of the docstring; sizes are such that shares are whole or need no tie of
    remainders.
    """
    samples = [s for s in table.to_pylist() if s["cluster_instructiongpt4"] is not None]
    samples.sort(key=lambda s: (-s["value"], plain_key(seed, s["id"])))
    sizes = Counter(s["cluster_instructiongpt4"] for s in samples)
    wanted = min(len(samples), int(np.ceil(round(over * budget, 6))))
    exact = {c: wanted * size / len(samples) for c, size in sizes.items()}
    share = {c: int(x + 1e-9) for c, x in exact.items()}
    for c in sorted(exact, key=lambda c: (-round(exact[c] - share[c], 9), c))[: wanted - sum(share.values())]:
        share[c] += 1
    shortlist = []
    for sample in samples:
        place = sum(s["cluster_instructiongpt4"] == sample["cluster_instructiongpt4"] for s in shortlist)
        if place < max(share[sample["cluster_instructiongpt4"]], 1):
            shortlist.append(sample)
    return [s["row"] for s in shortlist[:budget]], len(shortlist)


@pytest.mark.parametrize("case", range(60))
def test_equals_the_rule_in_plain_python(case):
    rng = np.random.default_rng(case)
    sizes = rng.integers(1, 40, rng.integers(1, 7)).tolist()
    table = table_of(sizes, case)
    budget, over = int(rng.integers(1, len(table) + 1)), float(rng.choice([1.0, 1.02, 1.5, 10.0]))
    found = select(table, budget, case, over=over, quota="remainders")
    expected, shortlist = oracle(table, budget, case, over)
    assert found.rows.tolist() == expected and found.notes["shortlist"] == shortlist


def test_a_share_is_rounded_down_and_the_shortlist_filled_by_the_best_of_the_others():
    table = table_of([5, 4, 1])  # 5 of 10: shares of 2.5, 2 and 0.5 give 2, 2 and at least 1
    value = np.array([9.0, 5.0, 1.0])[table["cluster_instructiongpt4"].to_numpy()]
    table = table.set_column(table.column_names.index("value"), "value", pa.array(value))
    found = select(table, 5, 0, over=1.0)
    assert found.reason["cluster"].to_pylist() == [0, 0, 1, 1, 2]
    assert found.notes["shortlist"] == 5 and found.notes["beyond_shortlist"] == 0
    table = table_of([5, 5])  # 7 of 10: 3 each, and the best of the others
    found = select(table, 7, 0, over=1.0)
    assert found.notes["shortlist"] == 6 and found.notes["beyond_shortlist"] == 1
    others = [v for row, v in enumerate(table["value"].to_pylist()) if row not in found.rows[:6].tolist()]
    assert found.reason["score"].to_pylist()[6] == max(others)
    assert Counter(select(table, 8, 0, over=1.0).reason["cluster"].to_pylist()) == {0: 4, 1: 4}


def test_without_surplus_clusters_keep_their_proportions_with_it_the_best_win():
    table = table_of([100, 100, 200])
    value = np.where(table["cluster_instructiongpt4"].to_numpy() == 0, 5.0, 0.0) + table["value"].to_numpy()
    table = table.set_column(table.column_names.index("value"), "value", pa.array(value))
    assert Counter(select(table, 40, 0, over=1.0).reason["cluster"].to_pylist()) == {0: 10, 1: 10, 2: 20}
    assert Counter(select(table, 40, 0, over=10.0).reason["cluster"].to_pylist()) == {0: 40}


def test_text_only_rows_are_set_aside_or_get_their_share():
    table = table_of([60, 40], missing=20)
    found = select(table, 40, 0)
    assert found.notes["text_only"] == 20 and found.rows.max() < 80
    with pytest.raises(BudgetError) as error:
        select(table, 81, 0)
    assert error.value.available == 80
    kept = select(table, 40, 0, text_only="keep")
    assert (kept.rows >= 80).sum() == 8 and kept.notes["text_only_kept"] == 8


def test_signals_and_parameters():
    assert needs("instructiongpt4") == ("value", "cluster_instructiongpt4")
    with pytest.raises(SelectorError, match="quota must be one of floor, remainders, got 'half'"):
        select(table_of([5, 5]), 3, 0, quota="half")
    with pytest.raises(SelectorError, match=r"over must be .*, got 0.5"):
        select(table_of([5, 5]), 3, 0, over=0.5)
