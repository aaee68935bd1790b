"""The same selection for every hash seed of Python, every SIMD variant of numpy and every kernel of its
matrix product.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from selector_tables import CASES

pytestmark = pytest.mark.slow

SCRIPT = """
import hashlib, json
from selector_tables import CASES, random_table
from curation.selectors import BudgetError
from curation.selectors.registry import get_selector, needs
table = random_table(11, 900)
for name, params in CASES:
    try:
        found = get_selector(name)(table, 900 if name == "all" else 250, 5, **params)
        text = json.dumps([found.rows.tolist(), found.reason.to_pylist(), found.notes])
    except BudgetError as error:
        text = str(error)
    print(name, params, hashlib.sha256(text.encode()).hexdigest())
# vectors wide enough for the order of additions to show in a plain product
table = random_table(12, 300, width=200)
for name, params in CASES:
    used = str(params) + str(needs(name, params))
    if any(signal in used for signal in ("emb_", "clip_image", "embedding_")):
        found = get_selector(name)(table, 60, 5, **params | ({"fill": "score"} if name == "deita" else {}))
        print(name, params, found.rows.tolist())
"""
TESTS = Path(__file__).parents[2]


def selections(**environment: str) -> str:
    paths = os.pathsep.join([str(TESTS.parent), str(TESTS / "support")])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": paths} | environment,
    )
    return done.stdout


@pytest.fixture(scope="module")
def reference() -> str:
    return selections(PYTHONHASHSEED="0")


@pytest.mark.parametrize("hash_seed", ["1", "2", "3"])
def test_hash_seed_changes_nothing(reference, hash_seed):
    assert reference.count("\n") > len(CASES) + 8
    assert selections(PYTHONHASHSEED=hash_seed) == reference


def test_simd_changes_nothing(reference):
    features = " ".join(np._core._multiarray_umath.__cpu_dispatch__)
    assert selections(PYTHONHASHSEED="0", NPY_DISABLE_CPU_FEATURES=features) == reference


@pytest.mark.parametrize("kernel", ["Nehalem", "Haswell"])
def test_matrix_product_changes_nothing(reference, kernel):
    assert selections(PYTHONHASHSEED="0", OPENBLAS_CORETYPE=kernel, OPENBLAS_NUM_THREADS="2") == reference
