"""The gain of one step on a sample: that of torch's own optimizer, and the weights are left as they were."""

import json
from dataclasses import replace

import numpy as np
import pytest

from curation.signals.core.table import read_metadata, read_signal
from curation.signals.core.vlm import Vlm
from curation.signals.gradients.one_step import score_step_gain
from curation.signals.gradients.per_sample import trained_adapters
from training.adapters import kept_adapters, plain_name, save_adam

torch = pytest.importorskip("torch")
ANCHORS = {0: "ocr", 7: "mme/count", 10: "mme/color"}
LR = 0.02


@pytest.fixture(scope="module")
def warm(tiny_vlm_dir, tmp_path_factory):
    """The adapter of one epoch, as a warm-up with `keep_adapters` leaves it."""
    from training.models import add_lora

    folder, vlm = tmp_path_factory.mktemp("warm"), Vlm(tiny_vlm_dir, device="cpu")
    torch.manual_seed(0)
    model = add_lora(vlm.model, r=2, alpha=4)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(2):
        sum((p * torch.randn_like(p)).sum() for p in model.parameters() if p.requires_grad).backward()
        optimizer.step()
    own = folder / "adapters" / "1"
    model.save_pretrained(own)
    save_adam(model, optimizer, own / "adam.safetensors")
    (own / "kept.json").write_text(json.dumps({"epoch": 1, "step": 2, "lr": LR}))
    return folder


def gains_by_torch(model_dir, warm, pool, rows, optimizer):
    """Loss of the anchors before minus after a step of torch's own optimizer on each row."""
    kept = kept_adapters(warm)[-1]
    gains = []
    for row in rows:
        vlm = Vlm(model_dir, device="cpu")
        _, (adapter,) = trained_adapters(vlm, [kept.folder], [], [kept.adam])
        named = [(n, p) for n, p in vlm.model.named_parameters() if "lora_" in n]
        for handle in (p for _, p in named):
            handle._post_accumulate_grad_hooks.clear()  # ours would drop the gradient that torch steps by
        weights = [p for _, p in named]
        encoded = [vlm.renderer.encode(pool[anchor]) for anchor in ANCHORS]

        def loss(vlm=vlm, encoded=encoded):
            with torch.no_grad():
                return float(np.mean([vlm.model(**vlm.collator([one])).loss.item() for one in encoded]))

        before = loss()
        steps = torch.optim.SGD(weights, lr=LR) if optimizer == "sgd" else torch.optim.Adam(weights, lr=LR)
        if optimizer == "adam":
            hooks = adapter.hooks
            for name, weight in named:
                at = hooks.names.index(plain_name(name.removesuffix(".weight"), "0"))
                steps.state[weight] = {
                    "step": torch.tensor(float(adapter.adam.step)),
                    "exp_avg": adapter.adam.first[at].view_as(weight).clone(),
                    "exp_avg_sq": adapter.adam.second[at].view_as(weight).clone(),
                }
        vlm.model(**vlm.collator([vlm.renderer.encode(pool[row])])).loss.backward()
        steps.step()
        gains.append(before - loss())
    return gains


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_the_gain_is_that_of_torchs_own_step(small_pool, tiny_vlm_dir, warm, tmp_path, optimizer):
    items = [replace(small_pool[row], source=task) for row, task in ANCHORS.items()]
    summary = score_step_gain(
        small_pool, tiny_vlm_dir, tmp_path, warmup=warm, validation=items, optimizer=optimizer, device="cpu"
    )
    gains = read_signal(tmp_path, small_pool.hash)["step_gain"].to_numpy()
    rows = (0, 4, 39)  # the first is an anchor itself
    expected = gains_by_torch(tiny_vlm_dir, warm, small_pool, rows, optimizer)
    np.testing.assert_allclose(gains[list(rows)], expected, atol=2e-5)
    assert np.abs(expected).max() > 1e-3 and np.ptp(gains) > 1e-3, "steps must matter here"
    assert summary["anchors"] == 3 and summary["rows_missing"] == 0
    assert read_metadata(tmp_path)["targeted"] is True


def test_rows_do_not_depend_on_those_before_and_anchors_are_drawn(small_pool, tiny_vlm_dir, warm, tmp_path):
    items = [replace(small_pool[row], source=task) for row, task in ANCHORS.items()]
    settings = {"warmup": warm, "validation": items, "device": "cpu"}
    score_step_gain(small_pool, tiny_vlm_dir, tmp_path / "a", **settings)
    score_step_gain(small_pool, tiny_vlm_dir, tmp_path / "b", shard_rows=7, **settings)
    (tmp_path / "b" / "part-00003.parquet").unlink()
    score_step_gain(small_pool, tiny_vlm_dir, tmp_path / "b", shard_rows=7, **settings)
    a, b = (read_signal(tmp_path / name)["step_gain"].to_numpy() for name in "ab")
    np.testing.assert_array_equal(a, b)  # the weights are put back exactly
    fewer = score_step_gain(small_pool, tiny_vlm_dir, tmp_path / "c", anchors=1, **settings)
    assert fewer["anchors"] == 1 and read_metadata(tmp_path / "c")["anchors"] == 1
    with pytest.raises(ValueError, match="optimizer"):
        score_step_gain(small_pool, tiny_vlm_dir, tmp_path / "d", optimizer="lion", **settings)
