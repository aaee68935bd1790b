import pytest
import torch
from safetensors.torch import load_file

from training.fit import FitSpec, fit
from training.launch import LaunchError, read_config, touch_vision
from training.models import load
from training.plan import global_batches

SPEC = FitSpec(epochs=2, batch_size=4, lr=3e-3, warmup=0.1)


def test_shipped_configs_are_read_and_unknown_ones_are_named():
    assert read_config("zero2")["zero_optimization"]["stage"] == 2
    assert read_config("zero3")["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] is True
    with pytest.raises(FileNotFoundError, match="zero2, zero3"):
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
    split = fit(
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


def test_a_failed_rank_is_heard(base, samples_of, tmp_path):
    pytest.importorskip("deepspeed")
    spec = SPEC.model_copy(update={"deepspeed": "zero2", "processes": 1, "lr": 1e30, "warmup": 0.0})
    with pytest.raises(LaunchError, match="TrainingDiverged: loss is"):
        fit(spec, base, samples_of(8), tmp_path / "out")
    assert not (tmp_path / "out/COMPLETE").exists()
