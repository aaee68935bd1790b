"""Each family trains on two ranks under ZeRO-2 and ZeRO-3 as in one process, whatever images a rank has."""

import os
import subprocess
import sys
from pathlib import Path

import family_ranks
import pytest
import tiny_families
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow
SCRIPT, ROOT = Path(family_ranks.__file__), Path(__file__).parents[3]
SECONDS = 600


@pytest.fixture(scope="module")
def trained(family_checkpoint, tmp_path_factory):
    """trained(stage) -> folder with the weights of all families, trained in one start; 0: one process."""
    out = tmp_path_factory.mktemp("ranks")
    checkpoints = {family_checkpoint(name).parent for name in tiny_families.NAMES}

    def train(stage):
        folder = out / str(stage)
        if not folder.exists():
            folder.mkdir()
            torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"] if stage else []
            done = subprocess.run(
                [sys.executable, *torchrun, str(SCRIPT), str(*checkpoints), str(stage), str(folder)],
                env={
                    **os.environ,
                    "PYTHONPATH": str(ROOT),
                    "OMP_NUM_THREADS": "1",
                    "TORCH_EXTENSIONS_DIR": str(out / "extensions"),
                },
                capture_output=True,
                text=True,
                timeout=SECONDS,
            )
            assert done.returncode == 0, done.stderr[-4000:]
        return folder

    return train


@pytest.mark.timeout(2 * SECONDS)
@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("name", tiny_families.NAMES)
def test_zero_on_two_ranks_trains_as_one_process(trained, name, stage):
    alone, shared = (load_file(trained(each) / f"{name}.safetensors") for each in (0, stage))
    assert alone.keys() == shared.keys()
    losses = alone.pop("losses")
    torch.testing.assert_close(shared.pop("losses"), losses, rtol=1e-5, atol=0)
    assert losses[-1] < losses[0] - 0.2
    for key, weight in alone.items():
        torch.testing.assert_close(shared[key], weight, rtol=0, atol=2e-5, msg=key)
