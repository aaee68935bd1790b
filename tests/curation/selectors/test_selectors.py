"""The contract of every selector, and the behaviour of the simple ones."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selector_tables import CASES, plain_key, random_table, shuffled

from curation.selectors import BudgetError, ColumnError, Selection, Selector, SelectorError, resolve_budget
from curation.selectors.primitives import quota, rank_within, seeded_keys, spread
from curation.selectors.registry import SELECTORS, check_params, describe, get_selector, needs

every_case = pytest.mark.parametrize(("name", "params"), CASES, ids=lambda value: str(value))
few = settings(max_examples=25, deadline=None)


def run(name, params, table, budget, seed=0):
    """The selection, or the BudgetError with the number of available rows."""
    try:
        return get_selector(name)(table, budget, seed, **params)
    except BudgetError as error:
        assert error.requested == budget
        assert error.available < budget or name == "all"
        return error


def test_every_registered_selector_is_in_the_property_tests():
    assert {name for name, _ in CASES} == set(SELECTORS)


@every_case
@few
@given(table_seed=st.integers(0, 10**6), n=st.integers(1, 60), data=st.data())
def test_size_is_exact_or_the_error_counts_the_available_rows(name, params, table_seed, n, data):
    table = random_table(table_seed, n)
    budget = data.draw(st.integers(1, n))
    result = run(name, params, table, budget)
    if isinstance(result, BudgetError):
        if not result.available:
            return
        result = run(name, params, table, budget := result.available)
    assert isinstance(result, Selection)
    assert len(result.rows) == len(set(result.rows.tolist())) == result.reason.num_rows
    assert len(result.rows) == budget + result.surplus
    assert set(result.rows.tolist()) <= set(range(n))
    source_of = dict(zip(table["row"].to_pylist(), table["source"].to_pylist(), strict=True))
    assert result.reason["source"].to_pylist() == [source_of[row] for row in result.rows.tolist()]
    assert all(isinstance(count, int) for count in result.notes.values())


@every_case
@few
@given(
    table_seed=st.integers(0, 10**6),
    n=st.integers(2, 60),
    order=st.integers(0, 10**6),
    seed=st.integers(0, 99),
)
def test_order_of_the_rows_changes_nothing(name, params, table_seed, n, order, seed):
    table = random_table(table_seed, n)
    budget = n if name == "all" else max(n // 3, 1)
    first, second = (run(name, params, t, budget, seed) for t in (table, shuffled(table, order)))
    if isinstance(first, BudgetError):
        assert first.available == second.available
    else:
        assert first.rows.tolist() == second.rows.tolist()
        assert first.reason.to_pylist() == second.reason.to_pylist()
        assert first.notes == second.notes


@every_case
@pytest.mark.parametrize("budget", [0, -1, 41])
def test_budget_outside_the_pool_is_refused(name, params, budget):
    with pytest.raises(BudgetError) as error:
        get_selector(name)(random_table(1, 40), budget, 0, **params)
    assert error.value.requested == budget
    assert error.value.available <= 40


@pytest.mark.parametrize(("name", "params"), [("random", {}), ("random_balanced", {}), ("mllm_selector", {})])
def test_seed_matters(name, params):
    table = random_table(3, 200)
    subsets = {
        tuple(sorted(get_selector(name)(table, 60, seed, **params).rows.tolist())) for seed in range(5)
    }
    assert len(subsets) == 5


NESTED = [(name, params) for name, params in CASES if Selector.of(get_selector(name)).is_nested(params)]


@pytest.mark.parametrize(("name", "params"), NESTED, ids=lambda value: str(value))
@few
@given(table_seed=st.integers(0, 10**6), small=st.integers(1, 20), large=st.integers(20, 40))
def test_nested_over_budgets(name, params, table_seed, small, large):
    table = random_table(table_seed, 60, missing=0.0)
    first, second = (run(name, params, table, budget, 7) for budget in (small, large))
    if isinstance(second, BudgetError):
        assert small > second.available or isinstance(first, Selection)
    else:
        assert second.rows[:small].tolist() == first.rows.tolist()


def test_nested_selectors_are_tested():
    assert {name for name, _ in NESTED} >= {
        "random",
        "random_balanced",
        "top_k",
        "length",
        "band",
        "perplexity",
        "el2n",
        "ifd",
        "less",
        "clip_score",
        "deita",
    }


def test_random_is_uniform():
    table = random_table(0, 50)
    counts = Counter(
        row for seed in range(400) for row in get_selector("random")(table, 10, seed).rows.tolist()
    )
    # 400 · 10 / 50 = 80 expected, standard deviation 8
    assert len(counts) == 50 and all(40 < counts[row] < 120 for row in range(50))
    assert sum((counts[row] - 80) ** 2 / 64 for row in range(50)) < 100  # mean 50, sd about 10


def test_random_balanced_is_equal_until_a_source_is_exhausted():
    table = pa.table(
        {
            "row": np.arange(100),
            "id": [str(i) for i in range(100)],
            "source": ["big"] * 80 + ["mid"] * 17 + ["tiny"] * 3,
        }
    )
    picked = Counter(get_selector("random_balanced")(table, 31, 0).reason["source"].to_pylist())
    assert picked == {"big": 14, "mid": 14, "tiny": 3}
    assert Counter(get_selector("random_balanced")(table, 60, 0).reason["source"].to_pylist()) == {
        "big": 40,
        "mid": 17,
        "tiny": 3,
    }


def test_top_k_takes_the_ends_and_counts_missing_values():
    table = pa.table(
        {
            "row": np.arange(6),
            "id": list("abcdef"),
            "source": ["s"] * 6,
            "x": pa.array([1.0, float("nan"), 3.0, None, 2.0, 0.5]),
        }
    )
    select = get_selector("top_k")
    top = select(table, 2, 0, column="x")
    assert (top.rows.tolist(), top.reason["score"].to_pylist(), top.notes) == (
        [2, 4],
        [3.0, 2.0],
        {"missing_value": 2},
    )
    assert select(table, 2, 0, column="x", order="ascending").rows.tolist() == [5, 0]
    with pytest.raises(BudgetError, match="requested 5 rows, only 4 available: 2 rows have no x"):
        select(table, 5, 0, column="x")


def test_columns_may_be_dictionary_encoded_and_chunked():
    table = random_table(5, 40)
    encoded = table.set_column(2, "source", table["source"].dictionary_encode())
    chunked = pa.concat_tables([encoded.slice(0, 13), encoded.slice(13)])
    for name in ("random_balanced", "mmssr", "mllm_selector"):
        expected = get_selector(name)(table, 12, 0)
        found = get_selector(name)(chunked, 12, 0)
        assert found.rows.tolist() == expected.rows.tolist()


@pytest.mark.parametrize(
    ("name", "params", "column"),
    [
        ("random", {}, "id"),
        ("random_balanced", {}, "source"),
        ("top_k", {"column": "clip"}, "clip"),
        ("matched_random", {}, "in_reference"),
        ("token_matched", {}, "text_tokens"),
        ("length", {}, "text_tokens"),
        ("perplexity", {}, "base_nll"),
        ("visnec", {"model": "seed"}, "nll_noimg"),
        ("visnec", {}, "cluster_visnec"),
        ("clip_score", {}, "n_images"),
        ("deita", {}, "deita_score"),
        ("deita", {"vectors": "quality"}, "quality"),
        ("semdedup", {}, "similarity_semdedup"),
        ("d2", {}, "emb_token_mean"),
        ("coincide", {}, "cluster_coincide"),
        ("presel", {}, "in_seed"),
        ("icons", {}, "influence_*"),
        ("less", {"tasks": ["mmmu"]}, "adam_influence_mmmu"),
        ("less", {"tasks": ["mmmu"], "adam": False}, "influence_mmmu"),
        ("quota_by_group", {"group": "topic"}, "topic"),
        ("top_k", {"column": "source"}, "source"),
        ("mllm_selector", {}, "nll"),
        ("mmssr", {}, "styles"),
        ("mmssr", {}, "cap_*"),
        ("mmssr", {"capabilities": ["humor"]}, "cap_humor"),
        ("mmssr", {"score": "expected"}, "exp_*"),
    ],
)
def test_missing_or_wrong_column_is_named(name, params, column):
    table = random_table(0, 20)
    gone = [
        c for c in table.column_names if c == column or (column.endswith("*") and c.startswith(column[:-1]))
    ]
    wrong = (name, column) in (
        ("top_k", "source"),
        ("deita", "quality"),
    )  # present, but of the wrong type
    broken = table if wrong else table.drop_columns(gone)
    with pytest.raises(ColumnError) as error:
        get_selector(name)(broken, 5, 0, **params)
    assert error.value.column == column and column.rstrip("*") in str(error.value)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("top_k", {"column": "nll", "order": "up"}),
        ("mmssr", {"bins": "styles"}),
        ("mmssr", {"fill": "zero"}),
        ("mmssr", {"score": "sum"}),
        ("mmssr", {"order": "x"}),
        ("mmssr", {"capabilities": ["ocr", "ocr"]}),
        ("mllm_selector", {"tau": 0}),
        ("mllm_selector", {"tau": float("nan")}),
        ("mllm_selector", {"strata": 0}),
        ("mllm_selector", {"noise_tail": 1.0}),
        ("matched_random", {"match": "size"}),
        ("matched_random", {"bins": 0}),
        ("length", {"rule": "middle"}),
        ("perplexity", {"model": "scorer"}),
        ("band", {"column": "nll", "low": 0.8}),
        ("clip_score", {"text_only": "drop"}),
        ("deita", {"fill": "random"}),
        ("deita", {"threshold": 1.5}),
        ("semdedup", {"keep": "best"}),
        ("d2", {"mode": "max"}),
        ("d2", {"variant": "paper"}),
        ("d2", {"edges": "mutual"}),
        ("d2", {"distance": "cosine"}),
        ("semdedup", {"variant": "paper"}),
        ("d2", {"gamma": -1.0}),
        ("d2", {"neighbours": 0}),
        ("coincide", {"tau": 0}),
        ("presel", {"reference": None, "temperature": -2.0}),
        ("icons", {"percent": 101}),
        ("quota_by_group", {"allocation": "even"}),
        ("quota_by_group", {"pick": "best"}),
        ("quota_by_group", {"shares": {}, "allocation": "explicit"}),
    ],
)
def test_bad_parameter_value_is_refused(name, params):
    with pytest.raises(SelectorError, match=str(next(reversed(params.values())))[:5].strip("[")):
        get_selector(name)(random_table(0, 20), 5, 0, **params)


def test_unknown_selector_names_the_nearest():
    with pytest.raises(SelectorError, match="did you mean 'mmssr'"):
        get_selector("mmsr")
    with pytest.raises(SelectorError, match="cannot be imported"):
        get_selector("no_such_module:select")
    with pytest.raises(SelectorError, match="must be a function select"):
        get_selector("json:dumps")


def test_own_selector_is_found_by_module_and_function(tmp_path, monkeypatch):
    (tmp_path / "own_selector_module.py").write_text(
        "NEEDS = ('style',)\ndef pick(columns, budget, seed, flavour='x'):\n    return flavour\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert get_selector("own_selector_module:pick")(None, 1, 0, flavour="y") == "y"
    assert needs("own_selector_module:pick") == ("style",)
    with pytest.raises(SelectorError, match="did you mean 'flavour'"):
        check_params("own_selector_module:pick", {"flavor": 1})


def test_every_selector_is_described():
    for name in SELECTORS:
        found = describe(name)
        assert found.name == name and len(found.summary) > 20 and "\n" not in found.summary
        assert found.cost in {"C0", "C1", "C2", "C3", "C4", "C5", "C6"}, name
        assert isinstance(found.targeted, bool) and (found.targeted or name not in ("icons", "less"))
    assert describe("presel").needs == (
        "necessity",
        "necessity_ablated",
        "embedding_dino",
        "cluster_presel",
        "seed_rows",
    )
    assert describe("perplexity", {"model": "seed"}).needs == ("necessity",)
    with pytest.raises(SelectorError, match="did you mean 'semdedup'"):
        describe("semdedupe")


def test_own_selector_is_described_by_its_function(tmp_path, monkeypatch):
    (tmp_path / "own_described_module.py").write_text(
        "COST = 'C3'\ndef pick(columns, budget, seed):\n    '''The reddest images.\n\n    More.'''\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = describe("own_described_module:pick")
    assert (found.summary, found.cost, found.needs, found.targeted) == (
        "The reddest images.",
        "C3",
        (),
        False,
    )


def test_parameters_are_checked_by_name():
    check_params("mmssr", {"bins": "style"})
    with pytest.raises(SelectorError, match=r"no parameter 'treshold' .did you mean 'threshold'"):
        check_params("mmssr", {"treshold": 1})
    with pytest.raises(SelectorError, match="it has none"):
        check_params("random", {"k": 1})
    with pytest.raises(SelectorError, match="needs the parameter 'column'"):
        check_params("top_k", {})


def test_needed_signals_follow_the_parameters():
    assert needs("random") == needs("all") == ()
    assert needs("mmssr") == ("capability", "style")
    assert needs("mmssr", {"bins": "source"}) == ("capability",)
    assert needs("mllm_selector") == ("necessity",)
    assert needs("top_k", {"column": "exp_ocr"}) == ("capability",)
    assert needs("top_k", {"column": "text_tokens"}) == ()


@pytest.mark.parametrize(
    ("budget", "n", "rows"),
    [
        ("30%", 26000, 7800),
        ("10%", 29, 2),
        ("100%", 7, 7),
        ("0.1%", 2000, 2),
        ("57%", 100, 57),
        ("29%", 100, 29),
        (12, 20, 12),
        ("12", 20, 12),
    ],
)
def test_budget_is_exact(budget, n, rows):
    assert resolve_budget(budget, n) == rows


@pytest.mark.parametrize("budget", ["0%", 0, -3, "101%", 21, "1%"])
def test_budget_that_no_pool_of_20_can_meet(budget):
    with pytest.raises(BudgetError):
        resolve_budget(budget, 20)


@pytest.mark.parametrize(("budget", "requested"), [("101%", 21), ("300%", 60), ("100.1%", 21)])
def test_a_share_above_the_pool_requests_at_least_one_row_more(budget, requested):
    with pytest.raises(
        BudgetError, match=r"requested \d+ rows, only 20 available: .*% is more than the pool"
    ) as error:
        resolve_budget(budget, 20)
    assert error.value.requested == requested


@pytest.mark.parametrize("budget", ["half", 0.3, "0.3", "", True, "nan%", "inf"])
def test_budget_that_is_not_a_number_or_a_share(budget):
    with pytest.raises(SelectorError, match="must be a share"):
        resolve_budget(budget, 20)


def test_selection_refuses_rows_twice_and_reasons_that_do_not_match():
    reason = pa.table({"source": ["a", "a"]})
    with pytest.raises(ValueError, match="twice"):
        Selection(np.array([3, 3]), reason)
    with pytest.raises(ValueError, match="1 rows but 2 reasons"):
        Selection(np.array([3]), reason)
    with pytest.raises(TypeError):
        Selection(np.array([3, 4], dtype=np.int32), reason)


@given(
    seed=st.integers(0, 2**40),
    names=st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=12), max_size=20),
)
@few
def test_keys_equal_plain_arithmetic(seed, names):
    whole = pa.array(["x", *names], pa.string())
    assert seeded_keys(seed, whole.slice(1)).tolist() == [plain_key(seed, name) for name in names]


def test_keys_of_many_ids_are_distinct_across_chunks():
    names = pa.array([f"{i}" for i in range(200_000)])
    keys = seeded_keys(1, names)
    assert len(np.unique(keys)) == 200_000
    assert keys[150_000] == plain_key(1, "150000")


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(-900, 900)), min_size=1, max_size=12), st.data())
@settings(max_examples=200, deadline=None)
def test_quota_is_exact_capped_and_ordered_by_weight(groups, data):
    sizes, lift = np.array([g[0] for g in groups]), np.array([g[1] for g in groups])
    budget = data.draw(st.integers(0, int(sizes.sum())))
    counts = quota(sizes, lift, budget)
    assert counts.sum() == budget and (counts >= 0).all() and (counts <= sizes).all()
    for i in range(len(sizes)):
        for j in range(len(sizes)):
            if sizes[i] == sizes[j] and lift[i] > lift[j] + 1e-6:  # closer ones count as equal remainders
                assert counts[i] >= counts[j]


def test_quota_proportional_rounds_by_largest_remainder():
    assert quota(np.array([50, 30, 20]), np.zeros(3), 7).tolist() == [4, 2, 1]  # 3.5, 2.1, 1.4
    with pytest.raises(ValueError, match="requested 4 rows, the groups hold 3"):
        quota(np.array([1, 2]), np.zeros(2), 4)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=10).filter(any), st.data())
@settings(max_examples=200, deadline=None)
def test_spread_rounds_the_exact_share_up_or_down(sizes, data):
    sizes = np.array(sizes)
    total = int(sizes.sum())
    budget, offset = data.draw(st.integers(0, total)), data.draw(st.integers(0, total - 1))
    counts = spread(sizes, budget, offset)
    assert counts.sum() == budget
    assert (counts >= sizes * budget // total).all() and (counts <= -(-sizes * budget // total)).all()


def test_spread_gives_small_groups_their_share_on_average():
    sizes = np.array([1, 2, 97])
    mean = np.mean([spread(sizes, 10, offset) for offset in range(100)], axis=0)
    np.testing.assert_allclose(mean, sizes / 10)


def test_rank_within_counts_inside_each_group():
    assert rank_within(np.array([0, 1, 0, 1, 0]), np.array([4, 3, 2, 1, 0])).tolist() == [2, 1, 1, 0, 0]


OWN_SELECTORS = {
    "nothing": ("", (), "unknown", False, False),
    "constants": ("NEEDS = ['style']\nCOST = 'C3'\nTARGETED = NESTED = True\n", ("style",), "C3", True, True),
    "functions": (
        "def needs(flavour='x'): return (flavour,)\ndef nested(flavour='x'): return flavour == 'y'\n",
        ("y",),
        "unknown",
        False,
        True,
    ),
    "record": (
        "NEEDS = ('ignored',)\ndef _record(select):\n    from curation.selectors import Selector\n"
        "    return Selector(select, needs=('clip',), cost='C1')\n",
        ("clip",),
        "C1",
        False,
        False,
    ),
}


@pytest.mark.parametrize("kind", OWN_SELECTORS)
def test_own_selector_declares_its_properties(tmp_path, monkeypatch, kind):
    source, signals, cost, targeted, nested = OWN_SELECTORS[kind]
    source += "def pick(columns, budget, seed, flavour='x'): ...\ndef other(columns, budget, seed): ...\n"
    name = f"own_{kind}_selector"
    (tmp_path / f"{name}.py").write_text(source + ("SELECTOR = _record(pick)\n" if kind == "record" else ""))
    monkeypatch.syspath_prepend(tmp_path)
    record, params = Selector.of(get_selector(f"{name}:pick")), {"flavour": "y"}
    assert needs(f"{name}:pick", params) == record.with_params("needs", params) == signals
    assert (record.cost, record.targeted, record.is_nested(params)) == (cost, targeted, nested)
    if kind == "record":  # the record is that of `pick` only
        assert needs(f"{name}:other") == ("ignored",)


def test_every_record_names_its_own_function():
    for name in SELECTORS:
        function = get_selector(name)
        record = Selector.of(function)
        assert record.select is function and record.cost != "unknown", name


def test_registry_imports_selectors_only_when_asked():
    code = (
        "import sys, curation.selectors.registry as s\n"
        "loaded = {m for m in sys.modules if m.startswith('curation.selectors.')}\n"
        "names = 'contract', 'param_types', 'registry'\n"
        "assert loaded == {f'curation.selectors.{name}' for name in names}, loaded\n"
        "s.get_selector('random'); assert 'curation.selectors.mmssr' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
