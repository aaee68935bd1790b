import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainingArguments

from curation.pool.sample import Sample, Turn
from training.fit import FitSpec, LoraSpec, fit
from training.models import COMPLETE, checkpoint_hash, load
from training.plan import TooManyBad
from training.render import RenderError
from training.trainer import OneDeviceArguments, param_groups

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SPEC = FitSpec(epochs=2, batch_size=8, lr=3e-3, warmup=0.1)


def weights(folder):
    return load_file(folder / "model.safetensors")


def same_weights(a, b):
    a, b = weights(a), weights(b)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


class Lazy:
    """A sequence that is no list: examples appear when they are asked for."""

    def __init__(self, examples):
        self.examples = examples

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        return self.examples[index]


class LazyWithLengths(Lazy):
    def lengths(self):
        return np.array([len(e) for e in self.examples])


def test_training_learns_and_writes_a_checkpoint(base, samples_of, tmp_path):
    calls = []
    data = samples_of(60)
    spec = FitSpec(epochs=6, batch_size=8, lr=5e-3, warmup=0.05)
    result = fit(spec, base, data, tmp_path / "out", lambda *call: calls.append(call))
    assert result["steps"] == 48 == len(result["losses"])
    assert result["samples_seen"] == 360
    assert result["losses"][-1] < 0.3 * result["losses"][0]
    assert result["dropped"] == {}
    assert calls[-1][:2] == (48, 48)
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert {COMPLETE, "config.json", "model.safetensors", "fit.json", "fit.log.jsonl"} <= names
    assert not names & {"checkpoints", "training_args.bin", "optimizer.pt"}
    assert weights(tmp_path / "out").keys() == weights(base).keys()
    log = [json.loads(line) for line in (tmp_path / "out/fit.log.jsonl").read_text().splitlines()]
    assert [entry["loss"] for entry in log] == result["losses"]
    peak = max(entry["learning_rate"] for entry in log)
    assert peak == pytest.approx(5e-3) and log[-1]["learning_rate"] < 1e-4
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["image_mode"] == "base" and "use_cache" not in config


def test_first_loss_is_the_token_mean_over_the_batch(base, samples, renderer, tmp_path):
    from training.collate import Collator

    spec = FitSpec(max_steps=1, batch_size=len(samples), lr=1e-3)
    result = fit(spec, base, samples, tmp_path / "out")
    model, _ = load(base)
    with torch.no_grad():
        batch = Collator(renderer.pad_id, renderer.loader)([renderer.encode(s) for s in samples])
        expected = model(**batch).loss.item()
    assert result["losses"][0] == pytest.approx(expected, abs=1e-5)


def test_tokens_are_those_without_padding(base, samples, renderer, tmp_path):
    result = fit(SPEC, base, samples, tmp_path / "out")
    assert result["tokens"] == 2 * sum(len(renderer.encode(s)) for s in samples)


def test_accumulation_does_not_change_the_outcome(base, samples, tmp_path):
    whole = fit(SPEC, base, samples, tmp_path / "a")
    parts = fit(SPEC.model_copy(update={"micro_batch": 3}), base, samples, tmp_path / "b")
    assert parts["losses"] == pytest.approx(whole["losses"], abs=1e-4)


def test_repeated_runs_are_bitwise_equal_and_leave_no_state(base, samples, tmp_path):
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    fit(SPEC, base, samples, tmp_path / "a")
    assert states[0] == random.getstate()
    assert np.array_equal(states[1], np.random.get_state()[1])
    assert torch.equal(states[2], torch.get_rng_state())
    fit(
        SPEC.model_copy(update={"precision": "bf16", "seed": 3, "max_steps": 2}),
        base,
        samples,
        tmp_path / "other",
    )
    torch.rand(17)
    fit(SPEC, base, samples, tmp_path / "b")
    assert same_weights(tmp_path / "a", tmp_path / "b")
    assert checkpoint_hash(tmp_path / "a") == checkpoint_hash(tmp_path / "b")
    fit(SPEC.model_copy(update={"seed": 1}), base, samples, tmp_path / "c")
    assert not same_weights(tmp_path / "a", tmp_path / "c")


def test_lora_trains_adapters_only_and_merges_them(base, samples, tmp_path):
    spec = SPEC.model_copy(update={"lora": LoraSpec(r=4, alpha=8, dropout=0.1)})
    fit(spec, base, samples, tmp_path / "a")
    fit(spec, base, samples, tmp_path / "b")
    assert same_weights(tmp_path / "a", tmp_path / "b")
    before, after = weights(base), weights(tmp_path / "a")
    assert before.keys() == after.keys()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed == {k for k in before if "language_model" in k and "_proj.weight" in k}
    load(tmp_path / "a")


def test_frozen_parts_stay_and_parts_have_their_own_rate(base, samples, tmp_path):
    spec = SPEC.model_copy(update={"freeze": ("vision",), "part_lr": {"projector": 1e-9}})
    fit(spec, base, samples, tmp_path / "out")
    before, after = weights(base), weights(tmp_path / "out")
    moved = {k: (before[k] - after[k]).abs().max().item() for k in before}
    assert all(v == 0 for k, v in moved.items() if "vision_tower" in k)
    assert all(0 < v < 1e-6 for k, v in moved.items() if "projector" in k and k.endswith("weight"))
    assert max(v for k, v in moved.items() if "language_model" in k) > 1e-4


def test_groups_cover_every_parameter_once(base):
    model, _ = load(base)
    groups = param_groups(model, {"vision": 1.0, "projector": 2.0, "language": 3.0}, 0.1)
    seen = [id(p) for g in groups for p in g["params"]]
    assert sorted(seen) == sorted(id(p) for p in model.parameters())
    assert {(g["name"], g["lr"]) for g in groups} == {("vision", 1.0), ("projector", 2.0), ("language", 3.0)}
    assert all((p.dim() > 1) == (g["weight_decay"] == 0.1) for g in groups for p in g["params"])


def test_a_process_uses_one_gpu_however_many_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: 4))
    args = OneDeviceArguments(output_dir=str(tmp_path), per_device_train_batch_size=3, use_cpu=True)
    assert args.n_gpu == 1 and args.train_batch_size == 3


def test_branch_examples_train(base, samples, renderer, tmp_path):
    queries = [("score dog ?", "3"), ("score cat ?", "0")]
    examples = [renderer.branches(s, queries) for s in samples]
    result = fit(FitSpec(epochs=20, batch_size=8, lr=5e-3), base, examples, tmp_path / "out")
    assert result["losses"][-1] < 0.2 * result["losses"][0]


def test_lazy_data_trains_like_the_list(base, samples, renderer, tmp_path):
    encoded = [renderer.encode(s) for s in samples]
    listed = fit(SPEC, base, encoded, tmp_path / "a")
    lazy = fit(SPEC, base, Lazy(encoded), tmp_path / "b")
    assert same_weights(tmp_path / "a", tmp_path / "b")
    assert lazy["losses"] == listed["losses"] and lazy["tokens"] is None
    with pytest.raises(RenderError, match="no token carries a loss"):
        fit(SPEC, base, Lazy([e.muted() for e in encoded]), tmp_path / "c")
    grouped = SPEC.model_copy(update={"grouping": "length"})
    with pytest.raises(ValueError, match=r"or lazy data with a method lengths\(\)"):
        fit(grouped, base, Lazy(encoded), tmp_path / "d")
    fit(grouped, base, encoded, tmp_path / "e")
    fit(grouped, base, LazyWithLengths(encoded), tmp_path / "f")
    assert same_weights(tmp_path / "e", tmp_path / "f")


def test_bad_samples_are_counted_and_too_many_stop_the_training(base, samples, tmp_path):
    bad = Sample(99, "bad", "t", (tmp_path / "absent.png",), (Turn("<image> what ?", "red"),))
    lenient = SPEC.model_copy(update={"max_bad_fraction": 0.1})
    result = fit(lenient, base, [*samples, bad], tmp_path / "a")
    assert result["dropped"] == {"missing_image": 1} and result["samples_seen"] == 2 * len(samples)
    rejected = [json.loads(line) for line in (tmp_path / "a/fit.rejected.jsonl").read_text().splitlines()]
    assert [(r["index"], r["name"], r["reason"]) for r in rejected] == [
        (len(samples), "bad", "missing_image")
    ]
    with pytest.raises(TooManyBad, match="missing_image"):
        fit(SPEC, base, [*samples, bad], tmp_path / "b")
    with pytest.raises(ValueError, match="no examples"):
        fit(SPEC.model_copy(update={"max_bad_fraction": 1}), base, [bad], tmp_path / "c")


def test_bad_example_never_changes_the_others(base, samples, tmp_path):
    fit(SPEC, base, samples, tmp_path / "a")
    bad = Sample(99, "bad", "t", (), ())
    fit(SPEC.model_copy(update={"max_bad_fraction": 0.1}), base, [*samples, bad], tmp_path / "b")
    assert same_weights(tmp_path / "a", tmp_path / "b")


def test_finished_training_is_returned_and_another_is_not_overwritten(base, samples, tmp_path):
    first = fit(SPEC, base, samples, tmp_path / "out")
    stamp = (tmp_path / "out/model.safetensors").stat().st_mtime_ns
    assert fit(SPEC, base, samples, tmp_path / "out") == first
    assert (tmp_path / "out/model.safetensors").stat().st_mtime_ns == stamp
    with pytest.raises(FileExistsError, match="another finished checkpoint: seed: 0 -> 9"):
        fit(SPEC.model_copy(update={"seed": 9}), base, samples, tmp_path / "out")


KILLED = """
import pickle, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from training.fit import fit
job = Path(sys.argv[2])
spec, base, samples, out = pickle.loads(job.read_bytes())
fit(spec, base, samples, out, lambda step, steps, message: print(step, flush=True))
"""


@pytest.mark.parametrize("lora", [None, LoraSpec(r=4, alpha=8, dropout=0.2)])
def test_killed_training_resumes_to_bitwise_equal_weights(base, samples, tmp_path, lora):
    import pickle

    spec = SPEC.model_copy(update={"epochs": 8, "save_steps": 5, "lora": lora})
    job = tmp_path / "job.pickle"
    job.write_bytes(pickle.dumps((spec, base, samples, tmp_path / "cut")))
    command = [sys.executable, "-c", KILLED, str(ROOT), str(job)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in child.stdout:
        if int(line) >= 12:
            break
    child.send_signal(signal.SIGKILL)
    child.wait()
    left = tmp_path / "cut/checkpoints"
    kept = [p for p in left.glob("checkpoint-*") if (p / COMPLETE).exists()]
    assert kept and not (tmp_path / "cut" / COMPLETE).exists()
    newest = max(int(p.name.split("-")[1]) for p in kept)
    torn = left / f"checkpoint-{newest + 5}"  # as if the kill had come in the middle of a save
    torn.mkdir(exist_ok=True)
    (torn / "model.safetensors").write_bytes(b"torn")

    steps = []
    resumed = fit(spec, base, samples, tmp_path / "cut", lambda step, *_: steps.append(step))
    assert steps[0] > newest
    whole = fit(spec, base, samples, tmp_path / "whole")
    assert resumed["losses"] == whole["losses"]
    assert same_weights(tmp_path / "cut", tmp_path / "whole")
    assert not left.exists()


def test_divergence_is_an_error(base, samples, tmp_path):
    from training.step_log import TrainingDiverged

    with pytest.raises(TrainingDiverged, match="learning rate"):
        fit(SPEC.model_copy(update={"lr": 1e30, "warmup": 0.0}), base, samples, tmp_path / "out")
    assert not (tmp_path / "out" / COMPLETE).exists()


def test_contradictory_specs_are_refused():
    for bad in ({"epochs": 0}, {"speed": 1}, {"freeze": ["tower"]}, {"lora": {"r": 4}, "freeze": ["vision"]}):
        with pytest.raises(ValueError):
            FitSpec(**bad)
    with pytest.raises(ValueError, match="nothing to train"):
        FitSpec(freeze=["vision", "projector", "language"])
