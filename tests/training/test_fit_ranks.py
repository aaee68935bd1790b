"""Several ranks: killed and resumed, resumed by other engines, and the memory that the final save takes."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from curation import killpoints
from training.checkpoints import newest_complete
from training.fit import FitSpec, fit
from training.launch import LaunchError, launch
from training.models import COMPLETE

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
SPEC = FitSpec(epochs=2, batch_size=8, lr=3e-3, warmup=0.1, save_steps=2)  # 6 steps of 24 samples
ROUNDING = 2e-4
"""What weights may differ by when sums are formed over another number of ranks, at this learning rate."""


@pytest.fixture(scope="module")
def data(tmp_path_factory, samples_in):
    return samples_in(tmp_path_factory.mktemp("images"), 24)


def weights(folder):
    return load_file(folder / "model.safetensors")


def largest_difference(a, b):
    a, b = weights(a), weights(b)
    assert a.keys() == b.keys()
    return max((a[k] - b[k]).abs().max().item() for k in a)


def killed(point: str, spec, base, data, out) -> None:
    """Run a training in a fork of this process; it, or one of its ranks, is killed at `point`."""
    if pid := os.fork():
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status == (FAILED if spec.distributed() else -signal.SIGKILL), "it was not killed"
        return
    status = 99
    try:
        os.environ[killpoints.VARIABLE] = f"start/{point}"
        launch(spec, base, data, out)
    except LaunchError:
        status = FAILED
    finally:
        os._exit(status)  # never back into pytest


FAILED = 3
KILLS = [("inside step/3", 2), ("inside save/1", 2), ("optimizer saved/1", 2), ("before mark/1", 2)]
"""(kill point, the state that is then the newest complete one); each start resumes at step 3."""


def test_a_plain_training_killed_in_a_step_and_in_saves_ends_bitwise_equal(base, data, tmp_path):
    fit(SPEC, base, data, tmp_path / "whole")
    for point, step in KILLS:
        killed(point, SPEC, base, data, tmp_path / "cut")
        assert newest_complete(tmp_path / "cut" / "checkpoints").name == f"checkpoint-{step}"
    fit(SPEC, base, data, tmp_path / "cut")
    assert largest_difference(tmp_path / "cut", tmp_path / "whole") == 0


@pytest.mark.parametrize("stage", ["zero2", "zero3"])
def test_ranks_killed_in_a_step_and_in_a_save_end_bitwise_equal(base, data, tmp_path, stage):
    pytest.importorskip("deepspeed")
    spec = SPEC.model_copy(update={"deepspeed": stage, "processes": 2})
    out = tmp_path / "cut"
    for point, step in (KILLS[0], KILLS[2]):
        killed(point, spec, base, data, out)
        assert newest_complete(out / "checkpoints").name == f"checkpoint-{step}"
    one = shutil.copytree(out, tmp_path / "one")
    launch(spec, base, data, out)
    launch(spec, base, data, tmp_path / "whole")
    assert largest_difference(out, tmp_path / "whole") == 0
    # The same state in one process without DeepSpeed: the same samples in the same order.
    steps = []
    result = fit(SPEC, base, data, one, lambda step, *_: steps.append(step))
    assert steps[0] == 3 and len(result["losses"]) == 6
    assert largest_difference(one, out) < ROUNDING


@pytest.mark.parametrize("engine", [{"deepspeed": "zero3"}, {"deepspeed": "zero2"}, {}])
def test_a_state_of_one_process_is_resumed_by_two(base, data, tmp_path, engine):
    if engine:
        pytest.importorskip("deepspeed")
    killed("inside step/3", SPEC, base, data, tmp_path / "cut")
    fit(SPEC, base, data, tmp_path / "whole")
    steps = []
    spec = SPEC.model_copy(update={"processes": 2, **engine})
    launch(spec, base, data, tmp_path / "cut", lambda step, *_: steps.append(step))
    assert steps[0] >= 3 and (tmp_path / "cut" / COMPLETE).exists()
    assert largest_difference(tmp_path / "cut", tmp_path / "whole") < ROUNDING


def test_a_state_is_resumed_by_another_stage_on_another_number_of_ranks(base, data, tmp_path):
    pytest.importorskip("deepspeed")
    spec = SPEC.model_copy(update={"deepspeed": "zero3", "processes": 2})
    killed("inside step/3", spec, base, data, tmp_path / "cut")
    launch(SPEC.model_copy(update={"deepspeed": "zero2", "processes": 3}), base, data, tmp_path / "cut")
    fit(SPEC, base, data, tmp_path / "whole")
    assert largest_difference(tmp_path / "cut", tmp_path / "whole") < ROUNDING


def test_clipping_of_the_settings_reaches_deepspeed_whatever_its_config_leaves_out(base, data, tmp_path):
    pytest.importorskip("deepspeed")
    config = {"zero_optimization": {"stage": 2}, "zero_allow_untested_optimizer": True}
    config |= {"zero_force_ds_cpu_optimizer": False}
    (tmp_path / "bare.json").write_text(json.dumps(config))
    spec = SPEC.model_copy(update={"max_steps": 1, "save_steps": None, "processes": 1})
    bare = str(tmp_path / "bare.json")
    specs = {
        f"{name}-{norm}": spec.model_copy(update={"deepspeed": path, "max_grad_norm": norm})
        for name, path in (("shipped", "zero2"), ("bare", bare))
        for norm in (None, 0.5)
    }
    (tmp_path / "work.pickle").write_bytes(pickle.dumps((base, data, list(specs.items()))))
    torchrun = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*torchrun, "--nproc_per_node=1", str(ROOT / "tests/support/many_engines.py"), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    found = {name: float((tmp_path / f"{name}.clipping-0").read_text()) for name in specs}
    assert found == {name: 0.5 if name.endswith("0.5") else 0.0 for name in specs}


def test_a_failed_rank_is_never_silent(base, data, tmp_path):
    pytest.importorskip("deepspeed")
    spec = SPEC.model_copy(update={"deepspeed": "zero2", "processes": 2, "lr": 1e30, "warmup": 0.0})
    with pytest.raises(LaunchError, match=r"loss is .*examples \(s\d+, .*no state was saved before it"):
        launch(spec, base, data, tmp_path / "out")


def test_the_final_save_under_zero3_needs_a_fraction_of_the_model(tokenizer, data, tmp_path):
    pytest.importorskip("deepspeed")
    from training.models import build_tiny

    base = build_tiny(tmp_path / "base", tokenizer, hidden=512, layers=12, heads=8, intermediate=2048)
    size = (base / "model.safetensors").stat().st_size
    assert size > 180e6
    spec = FitSpec(max_steps=1, batch_size=2, lr=1e-5, deepspeed="zero3")
    (tmp_path / "work.pickle").write_bytes(pickle.dumps((base, data, spec)))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    script = ROOT / "tests" / "support" / "save_memory.py"
    done = subprocess.run(
        [*torchrun, str(script), str(tmp_path)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    figures = [(tmp_path / f"grown-{rank}").read_text().split() for rank in (0, 1)]
    grown, second = [int(each[0]) for each in figures], [int(each[1]) for each in figures]
    # Memory that the saving gives back lowers what a copy adds to the peak.
    assert min(second) > 0.6 * size, "the measurement would not notice a second model"
    print(f"model {size / 1e6:.0f} MB, grown by {[round(g / 1e6) for g in grown]} MB")
    assert max(grown) < 0.4 * size
    assert weights(tmp_path / "out").keys() == weights(base).keys()
