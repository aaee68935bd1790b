"""Influence in a subspace of the gradients: the channels, the closed form, and the signal end to end."""

import json
from dataclasses import replace

import numpy as np
import pytest

from curation.signals.core.table import SignalError, read_signal
from curation.signals.core.vector_files import matrix
from curation.signals.gradients.at_warmup import score_gradients_at_warmup
from curation.signals.gradients.masked import (
    above_average,
    masked_directions,
    mean_of_units,
    mean_size,
    score_masked_influence,
)
from curation.signals.gradients.validation import ValidationError
from curation.signals.losses import score_losses
from training.adapters import save_adam

torch = pytest.importorskip("torch")
TASKS = {0: "ocr", 1: "ocr", 7: "mme/count", 8: "mme/count", 10: "mme/color"}
RATES = (3e-5, 1e-5)


def test_a_channel_counts_if_it_is_above_average_in_the_pool_and_in_the_task():
    pool = np.array([[3.0, -1.0, 0.5, 0.1], [-3.0, 1.0, 2.5, 0.1]], np.float16)
    size = mean_size(pool, np.array([True, True]))
    np.testing.assert_allclose(size, [3.0, 1.0, 1.5, 0.1], atol=1e-3)  # mean 1.4: channels 0 and 2
    np.testing.assert_allclose(mean_size(pool, np.array([True, False])), [3.0, 1.0, 0.5, 0.1], atol=1e-3)
    targets = np.array([[0.0, 2.0, 4.0, 0.0], [0.0, 2.0, 2.0, 0.0], [1.0, 9.0, 0.0, 0.0]], np.float16)
    known = np.array([True, True, False])
    # the task's channels: mean sizes 0, 2, 3, 0 around 1.25, so 1 and 2; both: 2 alone
    found, channels = masked_directions({"t": {"a": [0], "b": [1, 2]}}, targets, known, size, 1)
    np.testing.assert_allclose(found["t"], [[0, 0, 4.0, 0], [0, 0, 2.0, 0]])
    assert channels == {"t": 1}
    found, channels = masked_directions(
        {"t": {"": [0]}, "u": {"": [3]}},
        np.vstack([targets, np.eye(4)[3]]),
        np.array([True, True, False, True]),
        size,
        1,
    )
    assert channels == {"t": 1, "u": 0} and not found["u"].any()
    with pytest.raises(ValidationError, match="no channel"):
        masked_directions({"t": {"": [0]}}, np.eye(4)[[3]], known[:1], size, 1)
    with pytest.raises(ValidationError, match="no item"):
        masked_directions({"t": {"": [2]}}, targets, known, size, 1)


def test_averages_are_those_of_each_checkpoint():
    assert above_average(np.array([1.0, 3.0, 10.0, 30.0]), 2).tolist() == [False, True, False, True]
    assert above_average(np.array([1.0, 3.0, 10.0, 30.0]), 1).tolist() == [False, False, False, True]


def test_the_mean_gradient_is_that_of_the_unit_gradients():
    weights = np.array([0.75, 0.25])
    one, other = np.array([[0.6, 0.8]]), np.array([[1.0, 0.0]])
    stored = np.concatenate([0.75**0.5 * one, 0.25**0.5 * other], axis=1)
    np.testing.assert_allclose(mean_of_units(stored, weights), (one + other) / 2, atol=1e-6)


@pytest.fixture(scope="module")
def warm(tiny_vlm_dir, tmp_path_factory):
    """The adapters of two epochs, as a warm-up with `keep_adapters` leaves them."""
    from curation.signals.core.vlm import Vlm
    from training.models import add_lora

    folder, vlm = tmp_path_factory.mktemp("warm"), Vlm(tiny_vlm_dir, device="cpu")
    torch.manual_seed(0)
    model = add_lora(vlm.model, r=2, alpha=4)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for epoch, rate in enumerate(RATES, 1):
        sum((p * torch.randn_like(p)).sum() for p in model.parameters() if p.requires_grad).backward()
        optimizer.step()
        own = folder / "adapters" / str(epoch)
        model.save_pretrained(own)
        save_adam(model, optimizer, own / "adam.safetensors")
        (own / "kept.json").write_text(json.dumps({"epoch": epoch, "step": epoch, "lr": rate}))
    return folder


@pytest.fixture(scope="module")
def gradients(small_pool, tiny_vlm_dir, warm, tmp_path_factory):
    out = tmp_path_factory.mktemp("gradients")
    score_gradients_at_warmup(
        small_pool,
        tiny_vlm_dir,
        out,
        warmup=warm,
        validation=None,
        checkpoints="all",
        adam=True,
        prefix="adam_",
        dim=64,
    )
    return out


def test_the_signal_follows_from_the_gradients(small_pool, tiny_vlm_dir, warm, gradients, tmp_path):
    items = [replace(small_pool[row], source=task) for row, task in TASKS.items()]
    summary = score_masked_influence(
        small_pool, tiny_vlm_dir, tmp_path, gradients=gradients, warmup=warm, validation=items
    )
    table = read_signal(tmp_path, small_pool.hash)
    assert table.column_names == ["row", "masked_influence_mme", "masked_influence_ocr", "adam_mean_grad"]
    pool = matrix(read_signal(gradients), "adam_grad")[0].astype(np.float64)
    plain = tmp_path / "plain"
    score_gradients_at_warmup(
        small_pool, tiny_vlm_dir, plain, warmup=warm, validation=None, checkpoints="all", dim=64
    )
    target = matrix(read_signal(plain), "grad")[0].astype(np.float64)  # the items are rows of the pool
    for task, subtasks in (("ocr", [[0, 1]]), ("mme", [[7, 8], [10]])):
        expected = np.full(len(pool), -np.inf)
        rows = [row for subtask in subtasks for row in subtask]
        for subtask in subtasks:
            total = np.zeros(len(pool))
            for part in (slice(0, 64), slice(64, 128)):  # each holds the root of its learning rate's share
                a, b = np.abs(pool[:, part]).mean(axis=0), np.abs(target[rows, part]).mean(axis=0)
                mask = (a > a.mean()) & (b > b.mean())
                total += (pool[:, part][:, mask] @ target[subtask, part][:, mask].T).mean(axis=1)
            expected = np.maximum(expected, total)
        np.testing.assert_allclose(table[f"masked_influence_{task}"].to_numpy(), expected, atol=1e-3)
        assert 0 < summary["channels"][task] < summary["of_channels"] == 128
        full = np.max([(pool @ target[subtask].T).mean(axis=1) for subtask in subtasks], axis=0)
        assert np.abs(full - expected).max() > 0.01, "the subspace must matter here"
    units = (pool[:, :64] / 0.75**0.5 + pool[:, 64:] / 0.25**0.5) / 2
    np.testing.assert_allclose(matrix(table, "adam_mean_grad")[0].astype(float), units, atol=2e-3)


def test_gradients_at_other_adapters_are_refused(small_pool, tiny_vlm_dir, warm, tmp_path):
    last = tmp_path / "last"
    score_gradients_at_warmup(
        small_pool, tiny_vlm_dir, last, warmup=warm, validation=None, prefix="adam_", dim=64
    )
    items = [replace(small_pool[0], source="ocr")]
    with pytest.raises(SignalError, match="adapters"):
        score_masked_influence(
            small_pool, tiny_vlm_dir, tmp_path / "m", gradients=last, warmup=warm, validation=items
        )


def test_another_kind_of_signal_is_refused(small_pool, tiny_vlm_dir, warm, tmp_path):
    score_losses(small_pool, tiny_vlm_dir, tmp_path / "losses", device="cpu")
    items = [replace(small_pool[0], source="ocr")]
    with pytest.raises(SignalError, match="losses holds no gradients at a warm-up: it has no adapters"):
        score_masked_influence(
            small_pool,
            tiny_vlm_dir,
            tmp_path / "out",
            gradients=tmp_path / "losses",
            warmup=warm,
            validation=items,
        )
