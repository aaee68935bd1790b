"""Trainings through `launch`: in this process, and under DeepSpeed in torchrun processes that die with it."""

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from training.distributed import read_config, touch_vision
from training.fit import FitSpec, LoraSpec, fit
from training.launch import LaunchError, launch
from training.models import load
from training.plan import global_batches

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SPEC = FitSpec(epochs=2, batch_size=4, lr=3e-3, warmup=0.1)


def test_a_spec_without_deepspeed_trains_in_this_process(base, samples, tmp_path):
    calls = []
    spec = SPEC.model_copy(update={"lora": LoraSpec(r=2, alpha=4)})
    here = fit(spec, base, samples, tmp_path / "fit")
    launched = launch(
        spec, base, samples, tmp_path / "launch", lambda *call: calls.append(call), keep_adapters=True
    )
    assert launched["losses"] == here["losses"] and calls[-1][:2] == (12, 12)
    assert (tmp_path / "launch" / "adapters" / "2" / "kept.json").exists()


def test_a_deepspeed_spec_needs_the_launcher(base, samples, tmp_path):
    spec = SPEC.model_copy(update={"deepspeed": "zero2"})
    with pytest.raises(ValueError, match=r"use training\.launch\.launch"):
        fit(spec, base, samples, tmp_path / "out")
    with pytest.raises(ValueError, match="adapters are kept of a LoRA training in one process"):
        launch(spec, base, samples, tmp_path / "out", keep_adapters=True)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_launched_is_refused_before_any_process_starts(base, tmp_path, monkeypatch):
    monkeypatch.setattr("training.launch._require_deepspeed", lambda: None)
    monkeypatch.setattr("training.launch._run", None)
    with pytest.raises(FileNotFoundError, match="zero9"):
        launch(SPEC.model_copy(update={"deepspeed": "zero9"}), base, [], tmp_path / "out")
    with pytest.raises(ValueError, match="DeepSpeed needs a list of examples"):
        launch(SPEC.model_copy(update={"deepspeed": "zero2"}), base, range(3), tmp_path / "out")


def test_shipped_configs_are_read_and_unknown_ones_are_named():
    assert read_config("zero2")["zero_optimization"]["stage"] == 2
    assert read_config("zero3")["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] is True
    with pytest.raises(FileNotFoundError, match="'zero9' does not exist: shipped are zero2, zero3"):
        read_config("zero9")


def test_text_only_batch_reaches_the_tower_without_changing_the_loss(base, renderer, samples):
    from training.collate import Collator

    texts = [renderer.encode(s) for s in samples if not s.images]
    batch = Collator(renderer.pad_id, renderer.loader)(texts)
    model, _ = load(base)
    plain = model(**batch).loss
    touch_vision(model.model)
    touched = model.train()(**batch).loss
    assert torch.equal(plain, touched)
    touched.backward()
    tower = dict(model.named_parameters())["model.vision_tower.embeddings.patch_embedding.weight"]
    assert tower.grad is not None and not tower.grad.any()


def ranks_without_images(samples):
    """(step, rank) pairs of the first epoch in which a rank of two sees no image."""
    plan = global_batches(len(samples), 4, SPEC.seed, 0)
    return [(k, r) for k, b in enumerate(plan) for r in (0, 1) if not any(samples[i].images for i in b[r::2])]


@pytest.mark.parametrize("stage", ["zero2", "zero3"])
def test_two_processes_lose_what_one_process_loses(base, samples_of, tmp_path, stage):
    pytest.importorskip("deepspeed")
    mixed = samples_of(17)  # the last batch of an epoch has one sample: the second rank gets a filler
    assert ranks_without_images(mixed), "no rank ever lacks images: the hard case is not tested"
    plain = fit(SPEC, base, mixed, tmp_path / "plain")
    calls = []
    split = launch(
        SPEC.model_copy(update={"deepspeed": stage, "processes": 2}),
        base,
        mixed,
        tmp_path / "split",
        lambda *call: calls.append(call),
    )
    assert len(split["losses"]) == 10
    assert split["losses"] == pytest.approx(plain["losses"], abs=2e-5)
    assert calls[-1][:2] == (10, 10)
    assert {k: v for k, v in split.items() if k in {"tokens", "samples_seen", "dropped"}} == {
        k: v for k, v in plain.items() if k in {"tokens", "samples_seen", "dropped"}
    }
    ours, theirs = (
        load_file(tmp_path / "split/model.safetensors"),
        load_file(tmp_path / "plain/model.safetensors"),
    )
    assert ours.keys() == theirs.keys() == load_file(base / "model.safetensors").keys()
    assert max((ours[k] - theirs[k]).abs().max() for k in ours) < 1e-3
    load(tmp_path / "split")


def test_the_error_of_a_failed_rank_is_reported(base, samples_of, tmp_path):
    pytest.importorskip("deepspeed")
    spec = SPEC.model_copy(update={"deepspeed": "zero2", "processes": 1, "lr": 1e30, "warmup": 0.0})
    with pytest.raises(LaunchError, match="TrainingDiverged: loss is"):
        launch(spec, base, samples_of(8), tmp_path / "out")
    assert not (tmp_path / "out/COMPLETE").exists()


# ------------------------------------------------------------------------------- death of the launcher

GUARDED = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-m", "training.parent_death", str(os.getpid()), *sys.argv[1:]])
print(child.pid, flush=True)
child.wait()
"""


def ended(processes: list[psutil.Process], seconds: float) -> bool:
    """Whether all of these processes end within `seconds`; one that waits to be reaped has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes):
            return True
        time.sleep(0.1)
    return False


def test_a_guarded_command_dies_with_its_killed_parent():
    sleep = [sys.executable, "-c", "import time; print('ready', flush=True); time.sleep(600)"]
    parent = subprocess.Popen(
        [sys.executable, "-c", GUARDED, *sleep], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    child = psutil.Process(int(parent.stdout.readline()))
    assert parent.stdout.readline() == "ready\n"
    assert child.is_running()
    parent.kill()
    parent.wait()
    try:
        assert ended([child], 20)
    finally:
        if child.is_running():
            child.kill()


def test_a_guarded_command_does_not_start_when_its_parent_is_dead_already():
    command = [
        sys.executable,
        "-m",
        "training.parent_death",
        "999999999",
        sys.executable,
        "-c",
        "print('ran')",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and done.stdout == ""
    assert "process 999999999, which started this one, has ended" in done.stderr


def test_a_guarded_command_keeps_its_arguments_and_exit_status():
    code = "import sys; print(sys.argv[1:]); sys.exit(7)"
    command = [sys.executable, "-m", "training.parent_death", str(os.getpid())]
    done = subprocess.run(
        [*command, sys.executable, "-c", code, "--flag", "a b"], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.returncode, done.stdout) == (7, "['--flag', 'a b']\n")


LAUNCHER = """
import pickle, sys
from pathlib import Path
from training.launch import launch
spec, base, samples, out = pickle.loads(Path(sys.argv[1]).read_bytes())
launch(spec, base, samples, out, lambda step, steps, message: print(step, flush=True))
"""


def test_torchrun_and_its_ranks_die_with_the_killed_launcher(base, samples_of, tmp_path):
    pytest.importorskip("deepspeed")
    spec = SPEC.model_copy(update={"deepspeed": "zero2", "processes": 2, "epochs": 10_000})
    job = tmp_path / "job.pickle"
    job.write_bytes(pickle.dumps((spec, base, samples_of(16), tmp_path / "out")))
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(job)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert launcher.stdout.readline().strip().isdigit()  # the ranks are training
    family = psutil.Process(launcher.pid).children(recursive=True)
    assert sum("training.rank" in p.cmdline() for p in family) >= 3  # torchrun and two ranks
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    try:
        assert ended(family, 60)  # torchrun gives its ranks 30 seconds
    finally:
        for process in family:
            if process.is_running():
                process.kill()
