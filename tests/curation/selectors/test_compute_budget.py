"""Budgets in FLOPs: what selecting took is taken off, the rest is filled in order and never exceeded."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selector_tables import random_table, shuffled

from curation.selectors.budget import Compute, SpendError, select_within_compute
from curation.selectors.registry import get_selector

SEED = 5


def costs_of(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(1e12, 5e13, n)


def select(table, compute, name="random", params=None):
    return select_within_compute(get_selector(name), table, compute, SEED, params)


@pytest.mark.parametrize(("name", "params"), [("random", {}), ("random_balanced", {}), ("mmssr", {})])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 99), share=st.floats(0.1, 0.9), taken=st.floats(0, 0.9))
def test_selection_and_training_stay_in_the_budget_and_one_more_row_would_not(
    name, params, seed, share, taken
):
    table = random_table(seed, 40, missing=0.0)
    each = costs_of(40, seed)
    left = each.sum() * share + each.max()
    compute = Compute(left / (1 - taken), left / (1 - taken) * taken, each)
    if left >= each.sum():
        return
    chosen = select(table, compute, name, params)
    by_row = dict(zip(table["row"].to_pylist(), each.tolist(), strict=True))
    training = sum(by_row[row] for row in chosen.rows.tolist())
    assert training + compute.selection <= compute.budget
    more = get_selector(name)(table, len(chosen.rows) + 1, SEED, **params)
    assert sum(by_row[row] for row in more.rows.tolist()) > left * (1 - 1e-9) - 1e6
    notes = chosen.notes
    assert notes["flops_training"] == pytest.approx(training, abs=1000 * len(chosen.rows))
    assert notes["flops_left"] >= 0
    assert notes["flops_budget"] == notes["flops_selection"] + notes["flops_training"] + notes["flops_left"]


def test_what_selecting_costs_is_paid_in_rows():
    table, each = random_table(1, 100, missing=0.0), np.full(100, 1e12)
    free, paid = select(table, Compute(4e13, 0.0, each)), select(table, Compute(4e13, 1.5e13, each))
    assert len(free.rows) == 40 and len(paid.rows) == 25
    assert paid.rows.tolist() == free.rows[:25].tolist(), "in the order of the selector"


def test_the_order_of_the_rows_changes_nothing():
    table, each = random_table(3, 50, missing=0.0), costs_of(50, 3)
    mixed = shuffled(table, 4)
    places = {row: at for at, row in enumerate(table["row"].to_pylist())}
    again = each[[places[row] for row in mixed["row"].to_pylist()]]
    one = select(table, Compute(3e14, 0.0, each))
    assert select(mixed, Compute(3e14, 0.0, again)).rows.tolist() == one.rows.tolist()


@pytest.mark.parametrize(
    ("budget", "selection", "problem"),
    [
        (1e13, 2e13, "requested 10,000,000,000,000 FLOPs.*selecting costs 2e.13 FLOPs"),
        (9e14, 0.0, "requested 900,.* only 100,.*: the whole pool has no more"),
        (2e14, 1e13, "the whole pool has no more .besides 1e.13 that selecting costs"),
        (5e11, 0.0, "the shortest sample"),
    ],
)
def test_a_budget_that_does_not_suffice_says_both_numbers(budget, selection, problem):
    with pytest.raises(SpendError, match=problem):
        select(random_table(1, 100, missing=0.0), Compute(budget, selection, np.full(100, 1e12)))


def test_large_budgets_are_counted_exactly():
    table, each = random_table(1, 1000, missing=0.0), np.full(1000, 1e18)
    assert len(select(table, Compute(5e20, 1e20, each)).rows) == 400
