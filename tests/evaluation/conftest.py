from pathlib import Path

import pytest
from evaluation_data import write_bench


@pytest.fixture(scope="session")
def bench_dir(tmp_path_factory) -> Path:
    """The mini benchmarks, each with two questions of every kind."""
    return write_bench(tmp_path_factory.mktemp("bench"))
