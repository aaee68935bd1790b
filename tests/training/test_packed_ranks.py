"""Packs and the chunked loss under DeepSpeed on two ranks give the steps of one process, fillers included."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import packed_ranks
import pytest
import torch

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs deepspeed"),
]


def alone(base) -> list[float]:
    """Losses of SGD over all examples as one pack each, in this process."""
    model, renderer, data = packed_ranks.prepared(base)
    batches, labels = packed_ranks.packs(renderer, 0, 1, data)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    values = []
    for _ in range(packed_ranks.STEPS):
        optimizer.zero_grad()
        total = 0.0
        for batch in batches:
            value = model(**batch, num_items_in_batch=labels).loss
            value.backward()
            total += value.item()
        optimizer.step()
        values.append(total)
    return values


def test_zero_2_and_3_on_two_ranks_equal_one_process(base, tmp_path):
    script = Path(packed_ranks.__file__)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    paths = os.pathsep.join([str(Path(__file__).parents[2]), str(script.parent)])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(script), str(base), str(tmp_path)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    expected = alone(base)
    assert expected[0] > expected[-1]
    for stage in (2, 3):
        result = json.loads((tmp_path / f"zero{stage}.json").read_text())
        assert result["fillers"] > 0
        assert result["losses"] == pytest.approx(expected, rel=1e-5)
