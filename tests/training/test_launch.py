"""Trainings through `launch`: in this process, and in torchrun processes on one node or two."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from PIL import Image
from processes import environment
from safetensors.torch import load_file

from curation.pool.sample import Sample, Turn
from training.distributed import WrongEngine, check_engine, read_config, touch_vision
from training.fit import FitSpec, LoraSpec, fit
from training.interrupt import Interrupted
from training.launch import LaunchError, launch
from training.models import load
from training.plan import global_batches

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SPEC = FitSpec(epochs=2, batch_size=4, lr=3e-3, warmup=0.1)
LORA = SPEC.model_copy(update={"lora": LoraSpec(r=2, alpha=4)})
LONG = SPEC.model_copy(update={"epochs": 10_000})


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
    with pytest.raises(ValueError, match=r"use training\.launch\.launch"):
        fit(SPEC.model_copy(update={"deepspeed": "zero2"}), base, samples, tmp_path / "out")
    with pytest.raises(ValueError, match="adapters are kept of a LoRA training"):
        launch(SPEC.model_copy(update={"processes": 2}), base, samples, tmp_path / "out", keep_adapters=True)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_launched_is_refused_before_any_process_starts(base, tmp_path, monkeypatch):
    monkeypatch.setattr("training.launch._require_deepspeed", lambda: None)
    monkeypatch.setattr("training.launch.attend", None)
    with pytest.raises(FileNotFoundError, match="zero9"):
        launch(SPEC.model_copy(update={"deepspeed": "zero9"}), base, [], tmp_path / "out")
    lazy = SimpleNamespace(read=lambda: 0)  # a list would be put into a token store
    with pytest.raises(ValueError, match="the examples cannot be sent to other processes"):
        launch(SPEC.model_copy(update={"processes": 2}), base, lazy, tmp_path / "out")


ENGINES = {
    "zero0": "ZeRO-0",
    "zero1": "ZeRO-1",
    "zero2": "ZeRO-2",
    "zero3": "ZeRO-3",
    "zero2_offload": "ZeRO-2, optimizer state on cpu",
    "zero3_offload": "ZeRO-3, optimizer state on cpu, parameters on cpu",
}
"""Shipped configurations, and what the engine must say about itself."""


def test_shipped_configs_are_read_and_unknown_ones_are_named():
    shipped = {file.stem for file in (ROOT / "training/deepspeed").glob("*.json")}
    assert shipped == ENGINES.keys()
    for name in shipped:
        assert read_config(name)["zero_optimization"]["stage"] == int(name[4])
        assert read_config(name)["zero_force_ds_cpu_optimizer"] is False  # nothing has to be compiled
    with pytest.raises(FileNotFoundError, match="'zero9' does not exist: shipped are zero0, zero1, zero2, z"):
        read_config("zero9")


def test_another_engine_than_the_settings_name_is_refused(monkeypatch):
    layer = torch.nn.Linear(1, 1)
    assert check_engine(layer, None) == "plain"
    with pytest.raises(WrongEngine, match="ask for ZeRO-3, but plain is in use"):
        check_engine(layer, read_config("zero3"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(WrongEngine, match="ask for DDP, but plain is in use"):
        check_engine(layer, None)


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


def differences(ours: Path, theirs: Path) -> float:
    """The largest difference between two checkpoints, which must have the same names."""
    a, b = load_file(ours / "model.safetensors"), load_file(theirs / "model.safetensors")
    assert a.keys() == b.keys()
    return max((a[k] - b[k]).abs().max().item() for k in a)


def mixed_samples(folder: Path, count: int) -> list[Sample]:
    """One image each, but every third is text only and every fourth has two."""
    pictures = []
    for number, colour in enumerate([(220, 30, 30), (30, 30, 220)]):
        pictures.append(folder / f"{number}.png")
        Image.new("RGB", (64, 64), colour).save(pictures[-1])
    samples = []
    for row in range(count):
        images = [] if row % 3 == 2 else [pictures[row % 2]] * (2 if row % 4 == 1 else 1)
        question = " ".join([*["<image>"] * len(images), "what colour ?"])
        turns = (Turn(question, ("red", "blue")[row % 2]), Turn(f"score {row % 10} ?", f"yes {row % 10} ."))
        samples.append(Sample(row, f"s{row}", "test", tuple(images), turns))
    return samples


@pytest.fixture(scope="module")
def plain(base, tmp_path_factory):
    """(17 samples, their plain training, the same with LoRA and kept adapters).

    The last batch of an epoch has one sample: the second of two ranks gets a filler.
    """
    folder = tmp_path_factory.mktemp("plain")
    mixed = mixed_samples(folder, 17)
    assert ranks_without_images(mixed), "no rank ever lacks images: the hard case is not tested"
    fit(SPEC, base, mixed, folder / "full")
    fit(LORA, base, mixed, folder / "lora", keep_adapters=True)
    return mixed, folder / "full", folder / "lora"


def losses(out: Path) -> list[float]:
    return json.loads((out / "fit.json").read_text())["result"]["losses"]


def same_adapters(ours: Path, theirs: Path) -> None:
    """LESS reads the same adapters, learning rates and moments of Adam from both."""
    for epoch in ("1", "2"):
        a, b = ours / "adapters" / epoch, theirs / "adapters" / epoch
        assert (a / "kept.json").read_text() == (b / "kept.json").read_text()
        assert (a / "adapter_config.json").read_text() == (b / "adapter_config.json").read_text()
        for file in ("adam.safetensors", "adapter_model.safetensors"):
            mine, other = load_file(a / file), load_file(b / file)
            assert mine.keys() == other.keys()
            for key, value in other.items():
                assert torch.allclose(mine[key].float(), value.float(), rtol=1e-4, atol=1e-6), (file, key)
        assert int(load_file(a / "adam.safetensors")["step"]) == 5 * int(epoch)


def check_engines(
    folder: Path, base: Path, plain, specs: dict[str, FitSpec], engines: dict[str, str]
) -> None:
    """Train with two ranks under each engine, in one start, and compare with the plain trainings."""
    samples, full, lora = plain
    folder.mkdir()
    (folder / "work.pickle").write_bytes(pickle.dumps((base, samples, list(specs.items()))))
    script = ROOT / "tests/support/many_engines.py"
    torchrun = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*torchrun, "--nproc_per_node=2", str(script), str(folder)],
        env=environment(OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    for name, spec in specs.items():
        assert {(folder / f"{name}.engine-{rank}").read_text() for rank in (0, 1)} == {engines[name]}
        wanted = lora if spec.lora else full
        assert losses(folder / name) == pytest.approx(losses(wanted), abs=2e-5)
        assert differences(folder / name, wanted) < 1e-3
        if spec.lora:
            same_adapters(folder / name, lora)


def test_every_deepspeed_engine_trains_as_one_process_does_and_keeps_the_same_adapters(base, plain, tmp_path):
    pytest.importorskip("deepspeed")
    specs, engines = {}, {}
    for name, words in ENGINES.items():
        for kind, spec in (("full", SPEC), ("lora", LORA)):
            specs[f"{name}-{kind}"] = spec.model_copy(update={"deepspeed": name, "processes": 2})
            engines[f"{name}-{kind}"] = words
    check_engines(tmp_path / "engines", base, plain, specs, engines)


def test_ddp_trains_as_one_process_does_and_keeps_the_same_adapters(base, plain, tmp_path):
    specs = {
        "full": SPEC.model_copy(update={"processes": 2}),
        "checkpointing": SPEC.model_copy(update={"processes": 2, "gradient_checkpointing": True}),
        "micro": SPEC.model_copy(update={"processes": 2, "micro_batch": 1}),
        "lora": LORA.model_copy(update={"processes": 2}),
    }
    check_engines(tmp_path / "ddp", base, plain, specs, dict.fromkeys(specs, "DDP"))


# ----------------------------------------------------------------------------------------- several nodes

SRUN = """#!/bin/sh
# Slurm's srun on this machine alone: a task for each node.
while [ "${1#--}" != "$1" ]; do shift; done
for node in 0 1; do
    SLURM_NODEID=$node SLURM_PROCID=$node SLURM_STEP_NUM_TASKS=2 "$@" & pids="$pids $!"
done
status=0
for pid in $pids; do wait $pid || status=$?; done
exit $status
"""


def test_two_nodes_of_an_allocation_train_as_one_process_does(base, plain, tmp_path, monkeypatch):
    pytest.importorskip("deepspeed")
    (tmp_path / "srun").write_text(SRUN)
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name, value in {"JOB_ID": "7", "NNODES": "2", "JOB_NODELIST": "localhost"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    samples, full, _ = plain
    calls: list[tuple] = []
    spec = SPEC.model_copy(update={"deepspeed": "zero2", "nodes": 2, "processes": 1})
    result = launch(spec, base, samples, tmp_path / "out", lambda *call: calls.append(call))
    assert result["losses"] == pytest.approx(losses(full), abs=2e-5) and calls[-1][:2] == (10, 10)
    assert differences(tmp_path / "out", full) < 1e-3
    logs = sorted(path.name for path in (tmp_path / "out.job").rglob("*") if path.is_file())
    assert logs == ["node-0.log", "node-1.log", "rank-0.log", "rank-1.log", "srun.log"]


def further_node(out: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "training.launch", "--job", f"{out}.job"]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def test_a_rank_that_is_killed_ends_both_nodes_with_its_last_words(base, samples, tmp_path):
    def kill(step: int, *_: object) -> None:
        record = json.loads((tmp_path / "out.job/ranks/1.json").read_text())
        assert record["node"] == 1
        os.kill(record["process"], signal.SIGKILL)

    spec = LONG.model_copy(update={"nodes": 2, "processes": 1, "rendezvous": "127.0.0.1"})
    other = further_node(tmp_path / "out")
    with pytest.raises(LaunchError) as failure:
        launch(spec, base, samples, tmp_path / "out", kill)
    first = str(failure.value).splitlines()[0]
    assert first.startswith("the training failed: rank 1 (node 1, ") and first.endswith(
        "was killed by SIGKILL"
    )
    _, printed = other.communicate(timeout=60)
    assert other.returncode == 1 and "rank 1 (node 1, " in printed
    assert not (tmp_path / "out/COMPLETE").exists()


def test_the_error_of_a_failed_rank_is_reported(base, samples_of, tmp_path):
    spec = SPEC.model_copy(update={"processes": 2, "lr": 1e30, "warmup": 0.0})
    with pytest.raises(
        LaunchError, match=r"rank . \(node 0, .*\) raised .*TrainingDiverged: loss is"
    ) as failure:
        launch(spec, base, samples_of(8), tmp_path / "out")
    quoted = str(failure.value).partition("its last lines")[2]
    assert "TrainingDiverged: loss is" in quoted and "rank-" in quoted
    assert not (tmp_path / "out/COMPLETE").exists()


def test_a_stopped_training_saves_and_goes_on_with_the_same_command(base, samples, tmp_path):
    # Long enough for a signal to arrive within it.
    spec = SPEC.model_copy(update={"processes": 2, "epochs": 40, "lr": 1e-4})
    whole = fit(spec.model_copy(update={"processes": None}), base, samples, tmp_path / "whole")

    def stop(step: int, *_: object) -> None:
        if step < 240:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match=r"stopped by SIGTERM after step \d+, which is saved in") as stopped:
        launch(spec, base, samples, tmp_path / "out", stop)
    assert stopped.value.checkpoint.is_dir() and stopped.value.status == 128 + signal.SIGTERM
    steps: list[int] = []
    result = launch(spec, base, samples, tmp_path / "out", lambda step, *_: steps.append(step))
    assert steps[0] > stopped.value.step and len(result["losses"]) == 240
    assert result["losses"] == pytest.approx(whole["losses"], abs=1e-3)


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
    spec = LONG.model_copy(update={"deepspeed": "zero2", "processes": 2})
    job = tmp_path / "job.pickle"
    job.write_bytes(pickle.dumps((spec, base, samples_of(16), tmp_path / "out")))
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(job)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert launcher.stdout.readline().strip().isdigit()  # the ranks are training
    family = psutil.Process(launcher.pid).children(recursive=True)
    assert sum("training.elastic" in p.cmdline() for p in family) == 1  # torchrun
    assert sum("training.rank" in p.cmdline() for p in family) == 2
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    try:
        assert ended(family, 60)  # torchrun gives its ranks 30 seconds
    finally:
        for process in family:
            if process.is_running():
                process.kill()
