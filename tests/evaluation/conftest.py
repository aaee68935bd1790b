import os

# Before torch is loaded: a process that has used OpenMP threads cannot fork, and a test evaluates in two
# forked processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
from evaluation_data import write_bench


@pytest.fixture(scope="session")
def bench_dir(tmp_path_factory) -> Path:
    """The mini benchmarks, each with two questions of every kind."""
    return write_bench(tmp_path_factory.mktemp("bench"))
