from pathlib import Path

import pytest
from evaluation_data import write_bench

from evaluation import extract


@pytest.fixture(scope="session")
def bench_dir(tmp_path_factory) -> Path:
    """The mini benchmarks, each with two questions of every kind."""
    return write_bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture(autouse=True)
def cold_extract():
    """No test reads an extraction that an earlier one left in the cache."""
    extract._extract.cache_clear()
