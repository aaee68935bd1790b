"""What a training watches: spikes, numbers that are not finite, doubtful settings, fillers; its last save."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from training.fit import FitSpec, fit
from training.models import add_lora, checkpoint_hash, load, save_checkpoint
from training.plan import PlannedBatches
from training.saving import SaveError, Weight, check_space, save_model, weights_of, write_weights
from training.step_log import StepLog, TrainingDiverged, rows_of_step


def log_of(tmp_path, **options) -> StepLog:
    return StepLog(tmp_path / "log", PlannedBatches(24, 8, 0), None, True, lambda row: f"s{row}", **options)


def after(log: StepLog, losses, tmp_path, norm: float = 1.0) -> None:
    (tmp_path / "checkpoints").mkdir(exist_ok=True)
    for loss in losses:
        state = SimpleNamespace(global_step=len(log.losses) + 1, max_steps=99)
        arguments = SimpleNamespace(output_dir=str(tmp_path / "checkpoints"))
        log.on_log(arguments, state, None, {"loss": loss, "grad_norm": norm})


def test_a_spike_names_step_rows_and_the_last_good_state(tmp_path):
    log = log_of(tmp_path, spike=3.0)
    after(log, [2.0, 1.9] * 6, tmp_path)
    after(log, [5.8], tmp_path)  # below three times the median
    state = tmp_path / "checkpoints" / "checkpoint-10"
    state.mkdir()
    (state / "COMPLETE").write_text("{}")
    with pytest.raises(TrainingDiverged) as stop:
        after(log, [6.1], tmp_path)
    rows = rows_of_step(log.batches, 14)
    assert sorted(rows) == sorted(log.batches.steps_of(4)[1].tolist()) and len(rows) == 8
    text = str(stop.value)
    assert "loss is 6.1, more than 3 times the median" in text and "at step 14" in text
    assert all(f"s{row}" in text for row in rows) and f"the last good state is {state}" in text
    assert log.losses[-1] == 5.8


def test_no_spike_is_seen_without_a_factor_or_too_early(tmp_path):
    after(log_of(tmp_path), [1.0] * 20 + [1e6], tmp_path)
    after(log_of(tmp_path, spike=2.0), [1.0] * 9 + [1e6], tmp_path)


@pytest.mark.parametrize(
    "loss, norm, words",
    [
        (math.nan, 1.0, "loss is nan"),
        (math.inf, 1.0, "loss is inf"),
        (1.0, math.nan, "the gradient norm is nan"),
    ],
)
def test_what_is_not_finite_stops_before_it_is_saved(tmp_path, loss, norm, words):
    with pytest.raises(TrainingDiverged, match=rf"{words} at step 1: .*; no state was saved before it"):
        after(log_of(tmp_path), [loss], tmp_path, norm)


def test_settings_that_do_not_suit_a_large_model_are_said():
    spec = FitSpec()
    assert spec.doubts(10**9) == []
    assert [text.split()[0] for text in spec.doubts(7 * 10**9)] == [
        "lr",
        "precision",
        "gradient_checkpointing",
    ]
    right = {"precision": "bf16", "gradient_checkpointing": True}
    assert FitSpec(lr=1e-5, **right).doubts(7 * 10**9) == []
    assert FitSpec(lr=2e-4, lora={"r": 8}, **right).doubts(7 * 10**9) == []
    assert "7.0B" in FitSpec(lr=1e-5, part_lr={"projector": 1e-3}, **right).doubts(7 * 10**9)[0]


@pytest.mark.slow
def test_doubts_are_reported_before_the_first_step(base, samples, tmp_path, monkeypatch):
    monkeypatch.setattr("training.spec.LARGE", 1000)
    calls = []
    spec = FitSpec(max_steps=1, batch_size=8)
    result = fit(spec, base, samples, tmp_path / "a", lambda *call: calls.append(call))
    assert len(result["doubts"]) == 3 and [c[2] for c in calls[:3]] == [
        f"warning: {d}" for d in result["doubts"]
    ]
    with pytest.warns(UserWarning, match="lr 0.001: 1e-5 to 2e-5 are usual"):
        fit(spec, base, samples, tmp_path / "b")


@pytest.mark.slow
def test_examples_without_labels_do_not_weigh_in_a_mean_of_micro_batches(base, samples, renderer, tmp_path):
    """A broken image mutes its example late; the mean is over the micro-batches that have labels."""
    spec = FitSpec(max_steps=1, batch_size=4, micro_batch=1, loss_norm="microbatch", max_bad_fraction=1)
    encoded = [renderer.encode(sample) for sample in samples[:4]]
    alone = [
        fit(FitSpec(max_steps=1, batch_size=1), base, [example], tmp_path / f"{i}")["losses"][0]
        for i, example in enumerate(encoded)
    ]
    assert fit(spec, base, encoded, tmp_path / "all")["losses"] == pytest.approx([np.mean(alone)], abs=1e-5)
    three = PlannedBatches(3, 4, 0, accumulation=4)  # the last micro-batch is a filler
    assert [len(micro) for micro in three] == [1, 1, 1, 1] and sum(m[0] < 0 for m in three) == 1
    short = fit(spec, base, encoded[:3], tmp_path / "three")["losses"]
    assert short == pytest.approx([np.mean(alone[:3])], abs=1e-5)


# --------------------------------------------------------------------------------------- the final save


def test_the_file_is_the_one_that_the_library_writes(loaded, tmp_path):
    model, processor = loaded
    save_checkpoint(model, processor, tmp_path / "library")
    save_model(model, processor, tmp_path / "ours")
    names = sorted(path.name for path in (tmp_path / "library").iterdir())
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == names
    assert checkpoint_hash(tmp_path / "ours") == checkpoint_hash(tmp_path / "library")
    save_model(model, processor, tmp_path / "shards", shard_bytes=100_000)
    shards = sorted((tmp_path / "shards").glob("*.safetensors"))
    assert len(shards) > 2 and all(path.stat().st_size < 150_000 for path in shards[1:])
    again, _ = load(tmp_path / "shards")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
    index = json.loads((tmp_path / "shards" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(weight.bytes for weight in weights_of(model))


def test_types_are_kept_and_other_types_are_aligned(tmp_path):
    tensors = {
        "a": torch.arange(3, dtype=torch.uint8),
        "b": torch.randn(2, 2).bfloat16(),
        "c": torch.randn(5),
    }
    tensors["d"] = torch.tensor(3)
    own = [Weight(n, tuple(t.shape), t.dtype, (), lambda t=t: t) for n, t in tensors.items()]
    write_weights(own, tmp_path / "ours.safetensors")
    save_file(tensors, tmp_path / "library.safetensors", metadata={"format": "pt"})
    assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "library.safetensors").read_bytes()
    with pytest.raises(ValueError, match="announced"):
        write_weights([replace(own[1], shape=(4,))], tmp_path / "wrong.safetensors")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lora_is_merged_into_what_is_written_as_peft_merges_it(base, tmp_path, dtype):
    model, processor = load(base, dtype=dtype)
    adapted = add_lora(model, r=4, alpha=8, parts=("language", "projector", "vision"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    before = {name: weight.clone() for name, weight in adapted.state_dict().items()}
    save_model(adapted, processor, tmp_path / "ours")
    assert all(torch.equal(weight, before[name]) for name, weight in adapted.state_dict().items())
    save_checkpoint(adapted.merge_and_unload(), processor, tmp_path / "merged")
    ours = load_file(tmp_path / "ours" / "model.safetensors")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert ours.keys() == merged.keys() and all(torch.equal(ours[k], merged[k]) for k in ours)
    assert {weight.dtype for weight in ours.values()} == {dtype}


def test_too_small_a_disk_is_said_before_anything_is_written(tmp_path):
    with pytest.raises(SaveError, match=r"1000000000.0 GB are needed and .* GB are free"):
        check_space(tmp_path, 10**18)
