"""What each parameter and each documented column does: the survivors of a mutation run."""

import math
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from selector_tables import CASES, random_table

from curation.selectors import Selector
from curation.selectors.primitives import pick
from curation.selectors.registry import get_selector

REASONS = {
    "all": "",
    "band": "score",
    "clip_score": "score",
    "coincide": "cluster transferability density",
    "d2": "score density",
    "deita": "score filled",
    "el2n": "score",
    "icons": "votes mean_rank",
    "ifd": "score",
    "instructiongpt4": "cluster score",
    "length": "score",
    "less": "task score",
    "matched_random": "stratum",
    "mllm_selector": "stratum score",
    "mmssr": "capability style score expected round fill",
    "mmssr_official": "capability bin score round",
    "perplexity": "score",
    "presel": "cluster irs",
    "quota_by_group": "group",
    "random": "",
    "random_balanced": "round",
    "semdedup": "cluster similarity",
    "top_k": "score",
    "visnec": "cluster score",
}
"""Columns of a selection's reason besides `source`, and `part` where text-only rows are kept."""
NOTES = {
    "coincide": "clusters_used",
    "deita": "filled",
    "icons": "without_vote",
    "matched_random": "moved",
    "mllm_selector": "noise_tail",
    "mmssr": "filled unscored without_style missing_score",
    "mmssr_official": "missing_score overshoot unparsed_score without_style",
    "presel": "tasks_without_irs filled",
    "semdedup": "epsilon_e6 trimmed",
    "visnec": "misleading",
}
BY_PARAMETER = {"cluster_text", "score", "part"}
"""Columns that a parameter adds: the strata's, the pick's and the kept text-only rows'."""


@pytest.mark.parametrize(("name", "params"), [case for case in CASES if case[0] in REASONS], ids=str)
def test_a_selection_says_why_each_row_was_picked(name, params):
    table = random_table(3, 60)
    budget = {"all": 60, "deita": 6}.get(name, 12)
    found = get_selector(name)(table, budget, 0, **params)
    columns = {"source", *REASONS[name].split()}
    assert columns <= set(found.reason.column_names) <= columns | BY_PARAMETER
    assert set(NOTES.get(name, "").split()) <= set(found.notes)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
def test_the_kernel_of_mmd_is_gaussian_with_the_width_sigma(sigma):
    angles = np.array([0.0, 0.4, 1.5, 3.0])
    units = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    squared = ((units[:, None] - units[None]) ** 2).sum(axis=2)
    found = pick.kernel(units, units, sigma) / 2**24
    np.testing.assert_allclose(found, np.exp(-squared / (2 * sigma**2)), atol=1e-5)


def test_soft_sample_divides_scores_by_tau():
    rng, counts = np.random.default_rng(0), Counter()
    sample = pick.rule("soft_sample", tau=2.0)
    for _ in range(3000):
        keys = rng.integers(0, 2**64, 3, dtype=np.uint64)
        counts[int(sample(pick.Group(keys, np.log([1.0, 4.0, 25.0]), np.empty(0)), 1)[0])] += 1
    # weights exp(log(s) / 2) = 1, 2, 5
    np.testing.assert_allclose([counts[i] / 3000 for i in range(3)], [0.125, 0.25, 0.625], atol=0.03)


def picked(name: str, table: pa.Table, budget: int, **params) -> list[int]:
    return get_selector(name)(table, budget, 0, **params).rows.tolist()


def test_the_default_temperature_of_presel_is_one_over_the_root_of_the_tasks():
    n = 400
    table = pa.table(
        {
            "row": pa.array(range(n), pa.int32()),
            "id": [f"id-{i}" for i in range(n)],
            "source": [f"task-{i % 4}" for i in range(n)],
            "n_images": pa.array([1] * n, pa.int32()),
            "nll": pa.array([1.0] * n, pa.float32()),
            "nll_noq": pa.array([1.0 + i % 4 for i in range(n)], pa.float32()),
            "emb_dino": pa.array([[1.0, 0.0]] * n, pa.list_(pa.float32(), 2)),
            "cluster_presel": pa.array([0] * n, pa.int32()),
        }
    )
    found = get_selector("presel")(table, 100, 0, reference=None)
    shares = np.array([math.exp(-(1 / (1 + i)) * 2) for i in range(4)])
    wanted = np.floor(100 * shares / shares.sum())
    wanted[3] += 100 - wanted.sum()  # the heaviest task gets what is left
    counts = Counter(found.reason["source"].to_pylist())
    assert [counts[f"task-{i}"] for i in range(4)] == wanted.tolist()
    assert found.rows.tolist() == picked("presel", table, 100, reference=None, temperature=0.5)


@pytest.mark.parametrize(
    ("name", "params", "column"),
    [
        ("coincide", {"transfer": "my_transfer"}, "my_transfer"),
        ("length", {"column": "answer_tokens"}, "answer_tokens"),
        ("quota_by_group", {"group": ["source", "task"], "stat": "my_stat"}, "my_stat"),
        ("quota_by_group", {"score": "my_score"}, "my_score"),
        ("quota_by_group", {"group": ["source", "my_group"]}, "my_group"),
        ("quota_by_group", {"vectors": "emb_text"}, "emb_text"),
    ],
)
def test_a_column_that_a_parameter_names_is_read(name, params, column):
    """A selector that does not ask for a column would not be given it."""
    assert column in Selector.of(get_selector(name)).with_params("reads", params)


def test_one_bin_of_lengths_is_one_stratum():
    table = random_table(5, 60)
    found = get_selector("matched_random")(table, 12, 0, match="length", bins=1)
    assert set(found.reason["stratum"].to_pylist()) == {0} and found.notes["moved"] == 0


def test_presel_takes_typicality_from_so_many_neighbours():
    table = random_table(11, 400, missing=0.0)
    one, many = (
        picked("presel", table, 40, reference=None, text_only="keep", neighbours=k, vectors="emb_text")
        for k in (1, 30)
    )
    assert one != many


def test_coincide_picks_with_the_width_sigma():
    table = random_table(11, 400, missing=0.0)
    narrow, wide = (
        picked("coincide", table, 40, vectors="emb_text", cluster="text", text_only=None, sigma=s)
        for s in (0.05, 20.0)
    )
    assert narrow != wide
