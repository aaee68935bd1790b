"""The estimates of a training, held against trainings that are run: volume, model states, bytes on disk."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from encoded_lengths import of_encoded

from training.estimate.cost import estimate
from training.estimate.shapes import Shape
from training.fit import fit
from training.spec import FitSpec, LoraSpec

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


class Stop(Exception):
    pass


def estimated(spec, base, samples, renderer, world=1):
    lengths = of_encoded([renderer.encode(sample) for sample in samples], renderer.processor.image_token_id)
    shape = Shape.of_checkpoint(base)
    return estimate(shape, spec, lengths, world=world)


WIDTH = 128
WAYS = {
    "full": {},
    "lora": {"lora": LoraSpec(r=64)},
    "frozen tower": {"freeze": ("vision",)},
    "bf16": {"precision": "bf16"},
}


@pytest.fixture(scope="module")
def wider(tmp_path_factory, tokenizer):
    """A base so large that the headers of its files are small beside it."""
    from training.models import build_tiny

    out = tmp_path_factory.mktemp("wider") / "model"
    return build_tiny(out, tokenizer, hidden=WIDTH, layers=2, vision_layers=2, heads=2)


@pytest.mark.parametrize("way", WAYS)
def test_a_training_has_the_estimated_volume_states_and_sizes(way, wider, samples, renderer, tmp_path):
    spec = FitSpec(epochs=2, batch_size=8, micro_batch=4, save_steps=3, **WAYS[way])
    cost = estimated(spec, wider, samples, renderer)
    with pytest.raises(Stop):
        fit(spec, wider, samples, tmp_path / "out", stop_after(4))
    (state,) = (tmp_path / "out" / "checkpoints").glob("checkpoint-*")
    # A pickled tensor has about 400 bytes beside its numbers, which are few for a tiny model's adapters.
    assert bytes_of(state, "*.safetensors", "optimizer.pt") == pytest.approx(cost.disk.state, rel=0.02)
    # The tower's last norm is not read, so it has no gradient and no moments: two vectors of its width.
    unread = 2 * WIDTH if way in ("full", "bf16") else 0
    assert moments(state) == cost.memory.optimizer - 8 * unread
    result = fit(spec, wider, samples, tmp_path / "out")
    assert (result["steps"], result["tokens"]) == (cost.steps, cost.tokens)
    assert result["samples_seen"] == cost.samples
    assert bytes_of(tmp_path / "out", "*.safetensors") == pytest.approx(cost.disk.final, rel=0.01)


def stop_after(last):
    def on_progress(step, steps, message):
        if step >= last:
            raise Stop

    return on_progress


def bytes_of(folder: Path, *patterns: str) -> int:
    return sum(file.stat().st_size for pattern in patterns for file in folder.glob(pattern))


def moments(folder: Path) -> int:
    """Bytes of Adam's two moments in a saved state."""
    import torch

    saved = torch.load(folder / "optimizer.pt", weights_only=True)["state"]
    return sum(state[name].nbytes for state in saved.values() for name in ("exp_avg", "exp_avg_sq"))


def test_zero_divides_the_states_as_estimated(base, samples, renderer, tmp_path):
    """On two ranks, each state within 1 % of the estimate: partitions are padded to equal length.

    Under ZeRO-1 gradients are where they were, and only what the step reads of them is counted here.
    """
    out = tmp_path / "states.jsonl"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    script = str(ROOT / "tests" / "support" / "zero_bytes.py")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, script, str(base), str(out)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(lines) == 6
    for line in lines:
        spec = FitSpec(deepspeed=line["stage"], precision=line["precision"], freeze=("vision",), batch_size=2)
        memory = estimated(spec, base, samples, renderer, world=2).memory
        assert line["weights"] == pytest.approx(memory.weights, rel=0.01), line
        assert line["master"] + line["moments"] == pytest.approx(memory.optimizer, rel=0.01), line
        if line["stage"] != "zero1":
            assert line["gradients"] == pytest.approx(memory.gradients, rel=0.01), line
