"""States to resume from: when they are saved, when they are refused, and that none is lost.

`stopped` trains until a state after a given step is complete and then fails, as a machine would.
"""

import json
import os
import shutil
import signal
import time

import pytest
import torch
from safetensors.torch import load_file

from training.checkpoints import AnotherTraining, CheckpointError, newest_complete, step_of
from training.fit import FitSpec, LoraSpec, fit
from training.interrupt import Interrupted
from training.models import COMPLETE
from training.saving import SaveError

pytestmark = pytest.mark.slow
SPEC = FitSpec(epochs=2, batch_size=8, lr=3e-3, warmup=0.1, save_steps=2)  # 6 steps of 24 samples


class Failed(Exception):
    pass


def stopped(spec, base, samples, out, after: int = 4) -> None:
    def report(step, steps, message):
        time.sleep(0.25)  # a report is made at most five times a second
        if step > after:
            raise Failed

    with pytest.raises(Failed):
        fit(spec, base, samples, out, report)
    assert step_of(newest_complete(out / "checkpoints")) == after


def same_weights(a, b):
    a, b = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def data(tmp_path_factory, samples_in):
    return samples_in(tmp_path_factory.mktemp("images"), 24)


@pytest.fixture(scope="module")
def whole(base, data, tmp_path_factory):
    """The training that nothing stopped."""
    out = tmp_path_factory.mktemp("whole") / "out"
    fit(SPEC, base, data, out)
    return out


@pytest.fixture(scope="module")
def cut(base, data, tmp_path_factory):
    """The same, stopped after step 4; tests copy it."""
    out = tmp_path_factory.mktemp("cut") / "out"
    stopped(SPEC, base, data, out)
    return out


def copied(cut, tmp_path):
    return shutil.copytree(cut, tmp_path / "out")


def test_operational_settings_may_change_on_the_way(base, data, whole, cut, tmp_path):
    """Weights are equal up to rounding where steps are cut otherwise, and bitwise where they are not."""
    steps = []
    changed = {"save_steps": 3, "save_minutes": None, "cache_mb": 1, "max_bad_fraction": 0.5}
    out = copied(cut, tmp_path)
    fit(SPEC.model_copy(update=changed), base, data, out, lambda step, *_: steps.append(step))
    assert steps[0] == 5 and same_weights(out, whole)
    out = shutil.copytree(cut, tmp_path / "micro")
    fit(SPEC.model_copy(update={"micro_batch": 3, "gradient_checkpointing": True}), base, data, out)
    a, b = load_file(out / "model.safetensors"), load_file(whole / "model.safetensors")
    assert max((a[k] - b[k]).abs().max() for k in a) < 1e-4


def test_another_training_is_refused_and_nothing_is_deleted(base, data, cut, tmp_path):
    out = copied(cut, tmp_path)
    before = sorted(p.relative_to(out) for p in out.rglob("*"))
    with pytest.raises(
        AnotherTraining, match=r"saved in checkpoint-4: lr: 0.003 -> 0.01\. Run it as it began"
    ):
        fit(SPEC.model_copy(update={"lr": 1e-2}), base, data, out)
    with pytest.raises(
        AnotherTraining, match="1 of 24 rows are new, such as s99; 1 of the 24 before are gone"
    ):
        from dataclasses import replace

        fit(SPEC, base, [*data[:-1], replace(data[-2], id="s99")], out)
    (out / "checkpoints" / "identity.json").unlink()
    with pytest.raises(AnotherTraining, match="written by an earlier version"):
        fit(SPEC, base, data, out)
    kept = [path for path in before if path.name != "identity.json"]
    assert sorted(p.relative_to(out) for p in out.rglob("*")) == kept


def test_what_is_not_complete_is_no_reason_to_refuse(base, data, cut, tmp_path):
    out = copied(cut, tmp_path)
    (out / "checkpoints" / "checkpoint-4" / COMPLETE).unlink()
    fit(SPEC.model_copy(update={"max_steps": 1}), base, data, out)
    assert (out / COMPLETE).exists() and not (out / "checkpoints").exists()


@pytest.mark.parametrize("name", ["trained.safetensors", "optimizer.pt"])
def test_a_state_that_lost_a_file_is_not_resumed_silently(base, data, cut, tmp_path, name):
    out = copied(cut, tmp_path)
    file = out / "checkpoints" / "checkpoint-4" / name
    size = file.stat().st_size
    file.write_bytes(b"short")
    with pytest.raises(CheckpointError, match=f"{name} has 5 bytes instead of {size}: restore it, or remove"):
        fit(SPEC, base, data, out)
    file.unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        fit(SPEC, base, data, out)


def test_states_are_saved_by_time(base, data, tmp_path, monkeypatch):
    from training.checkpoints import Saver

    saved = []
    on_save = Saver.on_save
    monkeypatch.setattr(
        Saver, "on_save", lambda self, *a, **k: saved.append(a[1].global_step) or on_save(self, *a, **k)
    )
    spec = SPEC.model_copy(update={"save_steps": None, "save_minutes": 1e-6})
    fit(spec, base, data, tmp_path / "often")
    assert saved == [1, 2, 3, 4, 5]  # after the last step comes the final checkpoint
    saved.clear()
    fit(SPEC.model_copy(update={"save_steps": None}), base, data, tmp_path / "default")
    assert saved == [] and FitSpec().save_minutes == 20


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_the_step_saves_and_stops(base, data, whole, tmp_path, number):
    def report(step, *_):
        if step == 3:
            os.kill(os.getpid(), number)

    spec = SPEC.model_copy(update={"save_steps": None})
    before = signal.getsignal(number)
    with pytest.raises(
        Interrupted, match=f"stopped by {number.name} after step 4, .*run the same command"
    ) as stop:
        fit(spec, base, data, tmp_path / "out", lambda step, *_: (time.sleep(0.25), report(step)))
    assert stop.value.status == 128 + number and signal.getsignal(number) == before
    assert (stop.value.checkpoint / COMPLETE).exists()
    steps = []
    fit(spec, base, data, tmp_path / "out", lambda step, *_: steps.append(step))
    assert steps[0] == 5 and same_weights(tmp_path / "out", whole)


def test_a_signal_after_the_last_step_is_passed_on_when_the_checkpoint_is_complete(base, data, tmp_path):
    got = []
    before = signal.signal(signal.SIGTERM, lambda *_: got.append((tmp_path / "out" / COMPLETE).exists()))
    try:

        def report(step, *_):
            if step == 6:
                os.kill(os.getpid(), signal.SIGTERM)

        fit(SPEC, base, data, tmp_path / "out", report)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert got == [True]


def test_a_disk_that_is_full_leaves_the_earlier_state(base, data, whole, cut, tmp_path):
    """A limit on the size of files, under which the kernel refuses to write as on a full disk."""
    import resource

    out = copied(cut, tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    often = SPEC.model_copy(update={"save_steps": 1})
    for spec in (often, SPEC):  # while a state is saved, and while the final checkpoint is
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        try:
            with pytest.raises(SaveError, match=r"cannot save into .*checkpoint-4 is intact, resume from it"):
                fit(spec, base, data, out)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert not (out / COMPLETE).exists()
        assert step_of(newest_complete(out / "checkpoints")) == 4
    fit(SPEC, base, data, out)
    assert same_weights(out, whole)


def test_lora_beside_a_fully_trained_projector(base, data, tmp_path):
    spec = SPEC.model_copy(
        update={"lora": LoraSpec(r=4, alpha=8), "train_parts": ("projector",), "part_lr": {"projector": 1e-9}}
    )
    fit(spec, base, data, tmp_path / "whole")
    stopped(spec, base, data, tmp_path / "cut")
    fit(spec, base, data, tmp_path / "cut")
    assert same_weights(tmp_path / "cut", tmp_path / "whole")
    before, after = load_file(base / "model.safetensors"), load_file(tmp_path / "whole" / "model.safetensors")
    assert before.keys() == after.keys()
    moved = {k: (before[k] - after[k]).abs().max().item() for k in before}
    projector = [k for k in moved if "projector" in k]
    assert projector and all(0 < moved[k] < 1e-6 for k in projector if k.endswith("weight"))
    assert all(moved[k] > 1e-5 for k in moved if "language_model" in k and "_proj.weight" in k)
    assert all(moved[k] == 0 for k in moved if "vision_tower" in k)
    with pytest.raises(ValueError, match="train_parts"):
        fit(spec, base, data, tmp_path / "kept", keep_adapters=True)


def test_no_clipping_is_expressible_and_differs(base, data, tmp_path):
    spec = SPEC.model_copy(update={"max_steps": 3})
    clipped = spec.model_copy(update={"max_grad_norm": 1e-3})
    free = FitSpec.model_validate(spec.model_dump() | {"max_grad_norm": "none"})
    assert (
        fit(clipped, base, data, tmp_path / "a")["losses"] != fit(free, base, data, tmp_path / "b")["losses"]
    )
    assert json.loads((tmp_path / "b" / "fit.json").read_text())["spec"]["max_grad_norm"] is None


def test_the_record_of_equal_trainings_is_equal(whole, base, data, tmp_path):
    fit(SPEC, base, data, tmp_path / "again")
    assert (tmp_path / "again" / "fit.json").read_bytes() == (whole / "fit.json").read_bytes()
