"""Budgets of tokens: never exceeded, as large as possible, the same in every order of the rows; errors."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selector_tables import random_table, shuffled

from curation.selectors import BudgetError, ColumnError, Selection, SelectorError
from curation.selectors.budget import TokenBudgetError, choose, row_tokens, select_within_tokens, token_budget
from curation.selectors.registry import get_selector

SEED = 5


def tokened(seed: int, n: int, lowest: int = 1) -> pa.Table:
    rng = np.random.default_rng(seed)
    table = random_table(seed, n, missing=0.0).drop_columns(["text_tokens", "image_tokens"])
    table = table.append_column("text_tokens", pa.array(rng.integers(lowest, 400, n), pa.int32()))
    return table.append_column("image_tokens", pa.array(rng.choice([0, 64, 576], n), pa.int32()))


def spent(table: pa.Table, selection: Selection) -> int:
    tokens = dict(zip(table["row"].to_pylist(), row_tokens(table).tolist(), strict=True))
    return sum(tokens[row] for row in selection.rows.tolist())


def longest_prefix(table: pa.Table, name: str, budget: int, params: dict) -> list[int]:
    """What a nested selector must give, by trying every number of rows."""
    best: list[int] = []
    for rows in range(1, len(table) + 1):
        selection = get_selector(name)(table, rows, SEED, **params)
        if spent(table, selection) > budget:
            break
        best = selection.rows.tolist()
    return best


NESTED = [("random", {}), ("random_balanced", {}), ("top_k", {"column": "nll"})]
OTHERS = [("mmssr", {}), ("mllm_selector", {"noise_tail": 0.0})]


@pytest.mark.parametrize(("name", "params"), NESTED)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 99), share=st.floats(0.05, 0.95))
def test_a_nested_selector_gives_its_longest_prefix_that_fits(name, params, seed, share):
    table = tokened(seed, 25)
    budget = max(int(row_tokens(table).sum() * share), int(row_tokens(table).max()))
    selection = select_within_tokens(get_selector(name), table, budget, SEED, params)
    assert selection.rows.tolist() == longest_prefix(table, name, budget, params)
    assert selection.notes["tokens"] == spent(table, selection) == budget - selection.notes["tokens_left"]


@pytest.mark.parametrize(("name", "params"), NESTED + OTHERS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 99), share=st.floats(0.05, 0.9))
def test_one_more_row_would_not_fit_and_row_order_changes_nothing(name, params, seed, share):
    table = tokened(seed, 40)
    budget = max(int(row_tokens(table).sum() * share), int(row_tokens(table).max()))
    selection = select_within_tokens(get_selector(name), table, budget, SEED, params)
    assert spent(table, selection) <= budget and selection.notes["token_budget"] == budget
    more = get_selector(name)(table, len(selection.rows) + 1, SEED, **params)
    assert spent(table, more) > budget
    again = select_within_tokens(get_selector(name), shuffled(table, seed), budget, SEED, params)
    assert again.rows.tolist() == selection.rows.tolist()


def test_with_equal_tokens_a_token_budget_is_a_number_of_rows():
    table = tokened(1, 50).drop_columns(["text_tokens", "image_tokens"])
    table = table.append_column("text_tokens", pa.array([10] * 50)).append_column(
        "image_tokens", pa.array([0] * 50)
    )
    for name, params in NESTED + OTHERS:
        function = get_selector(name)
        by_tokens = select_within_tokens(function, table, 129, SEED, params)
        assert by_tokens.rows.tolist() == function(table, 12, SEED, **params).rows.tolist()
        assert by_tokens.notes["tokens_left"] == 9


def test_the_whole_pool_can_be_requested():
    table = tokened(2, 30)
    total = int(row_tokens(table).sum())
    selection = choose(get_selector("all"), table, f"tokens:{total}", SEED)
    assert len(selection.rows) == 30 and selection.notes["tokens_left"] == 0


def short_first(columns, budget, seed):
    """Not nested, and more rows may cost less: the shortest rows for an even budget, the longest for an odd
    one.
    """
    order = np.argsort(row_tokens(columns), kind="stable")
    rows = np.sort(order[:budget] if budget % 2 == 0 else order[::-1][:budget])
    return Selection(rows.astype(np.int64), columns.select(["source"]).take(rows))


def test_without_monotony_the_answer_still_fits_and_one_more_does_not():
    table = tokened(3, 60)
    budget = int(row_tokens(table).sum() // 3)
    selection = select_within_tokens(short_first, table, budget, SEED)
    assert spent(table, selection) <= budget < spent(table, short_first(table, len(selection.rows) + 1, SEED))


def test_a_wrong_declaration_of_nestedness_is_detected(monkeypatch):
    monkeypatch.setitem(globals(), "NESTED", True)
    table = tokened(3, 60)
    with pytest.raises(SelectorError, match="declared nested"):
        for share in range(2, 9):
            select_within_tokens(short_first, table, int(row_tokens(table).sum() * share // 10), SEED)


@pytest.mark.parametrize(
    ("budget", "requested", "message"),
    [
        ("tokens:0", 0, "at least 1"),
        ("tokens:-5", -5, "at least 1"),
        ("tokens:1e9", 10**9, "whole pool has no more"),
        ("tokens:1", 1, "shortest sample"),
    ],
)
def test_budgets_that_cannot_be_met(budget, requested, message):
    table = tokened(4, 30, lowest=5)
    with pytest.raises(TokenBudgetError, match=message) as caught:
        choose(get_selector("random"), table, budget, SEED)
    assert caught.value.requested == requested


def test_more_tokens_than_the_selector_can_pick():
    table = tokened(5, 40)
    nll = pa.array([value if at < 10 else None for at, value in enumerate(table["nll"].to_pylist())])
    table = table.set_column(table.column_names.index("nll"), "nll", nll)
    scored = int(row_tokens(table)[:10].sum())
    with pytest.raises(TokenBudgetError, match="can pick 10 rows") as caught:
        choose(get_selector("top_k"), table, f"tokens:{scored + 1}", SEED, {"column": "nll"})
    assert caught.value.available == scored
    assert len(choose(get_selector("top_k"), table, f"tokens:{scored}", SEED, {"column": "nll"}).rows) == 10


def test_first_pick_that_is_too_long():
    table = tokened(6, 10).drop_columns(["text_tokens", "image_tokens"])
    tokens = [3] * 9 + [50]
    table = table.append_column("text_tokens", pa.array(tokens)).append_column(
        "image_tokens", pa.array([0] * 10)
    )
    with pytest.raises(TokenBudgetError, match="only 0 available: the first pick alone"):
        choose(get_selector("top_k"), table, "tokens:40", SEED, {"column": "text_tokens"})


def test_unknown_token_counts_are_refused():
    table = tokened(7, 10)
    column = pa.array([None, None] + [5] * 8, pa.int32())
    table = table.set_column(table.column_names.index("image_tokens"), "image_tokens", column)
    with pytest.raises(ColumnError, match="image_tokens is unknown for 2 of 10 rows"):
        choose(get_selector("random"), table, "tokens:100", SEED)
    with pytest.raises(ColumnError, match="'text_tokens' is missing"):
        choose(get_selector("random"), table.drop_columns(["text_tokens"]), "tokens:100", SEED)


def test_negative_token_counts_are_refused():
    table = tokened(7, 3).drop_columns(["text_tokens"]).append_column("text_tokens", pa.array([5, -600, 5]))
    with pytest.raises(ColumnError, match="negative number of tokens"):
        choose(get_selector("random"), table, "tokens:100", SEED)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("tokens:2e9", 2 * 10**9), ("tokens: 1500 ", 1500), ("tokens:1.5e3", 1500), ("30%", None), (200, None)],
)
def test_budget_texts(text, tokens):
    assert token_budget(text) == tokens


@pytest.mark.parametrize(
    "text", ["tokens:", "tokens:many", "tokens:1.5", "tokens:inf", "tokens:nan", "tokens:30%"]
)
def test_budget_texts_that_are_not_token_budgets(text):
    with pytest.raises(SelectorError, match="number of tokens"):
        token_budget(text)


def test_budgets_in_rows_go_through():
    table = tokened(8, 20)
    assert len(choose(get_selector("random"), table, "30%", SEED).rows) == 6
    with pytest.raises(BudgetError):
        choose(get_selector("random"), table, 21, SEED)
