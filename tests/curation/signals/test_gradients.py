"""Per-sample LoRA gradients against autograd, their projection, and influence on a validation set."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.pool.read import Pool
from curation.signals.core.table import read_metadata, read_signal
from curation.signals.core.vector_files import matrix
from curation.signals.core.vlm import Vlm
from curation.signals.gradients import validation as validation_sets
from curation.signals.gradients.per_sample import AdamState, fresh_adapter, sample_gradients, trained_adapters
from curation.signals.gradients.producer import influence, score_gradients
from curation.signals.gradients.validation import ValidationError, read_validation, tasks_of, validation_hash
from training.adapters import AdapterError, plain_name, save_adam

torch = pytest.importorskip("torch")
SETTINGS = {"dim": 256, "r": 2, "device": "cpu", "max_tokens": 600}


@pytest.fixture(scope="module")
def warm(tiny_vlm_dir, tmp_path_factory):
    """Two adapters, as after one and two steps of a warm-up, with Adam's state."""
    from training.models import add_lora

    folder, vlm = tmp_path_factory.mktemp("warm"), Vlm(tiny_vlm_dir, device="cpu")
    torch.manual_seed(0)
    model = add_lora(vlm.model, r=2, alpha=4, dropout=0.5)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for step in (1, 2):
        sum((p * torch.randn_like(p)).sum() for p in model.parameters() if p.requires_grad).backward()
        optimizer.step()
        model.save_pretrained(folder / str(step))
        save_adam(model, optimizer, folder / str(step) / "adam.safetensors")
    return [folder / "1", folder / "2"]


def tapped(vlm, taps, examples):
    """[samples, D]: the gradients as they are sent, layer by layer, put together."""
    out = torch.zeros(len(examples), taps.size)

    def sink(index, gradient):
        out[:, taps.offsets[index] : taps.offsets[index] + gradient.shape[1]] = gradient

    assert all(sample_gradients(vlm, taps, examples, sink))
    return out


def by_autograd(vlm, taps, adapter, example):
    """[D]: torch's own gradient of the model's own loss on one sample."""
    weights = {
        plain_name(name.removesuffix(".weight"), adapter): p
        for name, p in vlm.model.named_parameters()
        if "lora_" in name
    }
    loss = vlm.model(**vlm.collator([example])).loss
    gradients = torch.autograd.grad(loss, [weights[name] for name in taps.names])
    return torch.cat([g.flatten() for g in gradients])


@pytest.mark.parametrize("step", [1, 2])
def test_gradients_of_a_batch_equal_autograd_sample_by_sample(tiny_vlm_dir, small_pool, warm, step):
    vlm = Vlm(tiny_vlm_dir, device="cpu")
    _, found = trained_adapters(vlm, [warm[step - 1]], [], [])
    examples = [
        vlm.renderer.encode(small_pool[row]) for row in (0, 4, 6, 39)
    ]  # one image, none, two; one to three turns
    ours = tapped(vlm, found[0].taps, examples)
    assert {name.rsplit(".", 1)[1] for name in found[0].taps.names} == {"lora_A", "lora_B"}
    for gradient, example in zip(ours, examples, strict=True):
        expected = by_autograd(vlm, found[0].taps, "0", example)
        assert gradient.norm() > 1e-3
        torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-4)
    assert all(p.grad is None for p in vlm.model.parameters()), "nothing is accumulated over batches"


def test_a_new_adapter_has_gradients_of_b_alone_and_the_same_for_a_seed(tiny_vlm_dir, small_pool):
    gradients = []
    for seed in (0, 0, 1):
        vlm = Vlm(tiny_vlm_dir, device="cpu")
        torch.rand(seed + 5)  # what was drawn before does not matter
        _, (adapter,) = fresh_adapter(vlm, r=2, alpha=4, targets=("q_proj", "down_proj"), seed=seed)
        example = vlm.renderer.encode(small_pool[0])
        gradients.append(tapped(vlm, adapter.taps, [example])[0])
        assert {name.rsplit(".", 2)[1:][0] + name[-7:] for name in adapter.taps.names} == {
            "q_proj.lora_B",
            "down_proj.lora_B",
        }
        torch.testing.assert_close(
            gradients[-1], by_autograd(vlm, adapter.taps, "default", example), atol=1e-6, rtol=1e-4
        )
    assert torch.equal(gradients[0], gradients[1]) and not torch.allclose(gradients[0], gradients[2])


@pytest.fixture(scope="module")
def validation(small_pool):
    """Six samples of the pool itself as two tasks, one of them with two subtasks."""
    tasks = {0: "ocr", 1: "ocr", 7: "mme/count", 8: "mme/count", 10: "mme/color", 11: "mme/color"}
    return [replace(small_pool[row], source=task) for row, task in tasks.items()]


@pytest.fixture(scope="module")
def signal(small_pool, tiny_vlm_dir, validation, tmp_path_factory):
    out = tmp_path_factory.mktemp("gradients")
    return out, score_gradients(
        small_pool, tiny_vlm_dir, out, validation=validation, shard_rows=16, **SETTINGS
    )


def test_the_signal_holds_unit_vectors_norms_and_influences(signal, small_pool, tiny_vlm_dir):
    table, summary = read_signal(signal[0], small_pool.hash), signal[1]
    assert table.column_names == ["row", "grad", "grad_norm", "influence_mme", "influence_ocr"]
    vectors, known = matrix(table, "grad")
    assert vectors.shape == (40, 256) and vectors.dtype == np.float16 and known.all()
    np.testing.assert_allclose(np.linalg.norm(vectors.astype(np.float64), axis=1), 1, atol=2e-3)
    assert summary["weights"] > 256 and summary["validation_samples"] == 6 and summary["rows_missing"] == 0
    vlm = Vlm(tiny_vlm_dir, device="cpu")
    _, (adapter,) = fresh_adapter(
        vlm,
        r=2,
        alpha=16,
        targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        seed=0,
    )
    exact = tapped(vlm, adapter.taps, [vlm.renderer.encode(small_pool[row]) for row in (0, 4, 39)])
    np.testing.assert_allclose(table["grad_norm"].to_numpy()[[0, 4, 39]], exact.norm(dim=1), rtol=1e-4)
    cosines = torch.nn.functional.normalize(exact, dim=1) @ torch.nn.functional.normalize(exact, dim=1).T
    kept = vectors[[0, 4, 39]].astype(np.float32) @ vectors[[0, 4, 39]].astype(np.float32).T
    assert np.abs(kept - cosines.numpy()).max() < 4 * (2 / 256) ** 0.5, (
        "the projection keeps angles within its error"
    )


def test_influence_is_the_mean_inner_product_and_the_largest_of_subtasks(signal, small_pool):
    table = read_signal(signal[0])
    vectors = matrix(table, "grad")[0].astype(np.float64)
    inner = vectors @ vectors.T  # the validation samples are rows of the pool
    np.testing.assert_allclose(table["influence_ocr"].to_numpy(), inner[:, [0, 1]].mean(axis=1), atol=2e-3)
    mme = np.maximum(inner[:, [7, 8]].mean(axis=1), inner[:, [10, 11]].mean(axis=1))
    np.testing.assert_allclose(table["influence_mme"].to_numpy(), mme, atol=2e-3)
    assert np.abs(mme - inner[:, [7, 8, 10, 11]].mean(axis=1)).max() > 0.01, "subtasks must matter here"


def test_the_metadata_says_that_it_is_targeted_and_at_what(
    signal, validation, small_pool, tiny_vlm_dir, tmp_path
):
    meta = read_metadata(signal[0])
    assert meta["targeted"] is True and meta["tasks"] == ["mme", "ocr"]
    assert meta["validation_hash"] == validation_hash(validation)
    assert (
        validation_hash(validation[:-1]) != validation_hash(validation) != validation_hash(validation[::-1])
    )
    score_gradients(small_pool, tiny_vlm_dir, tmp_path, **SETTINGS)
    blind = read_signal(tmp_path)
    assert read_metadata(tmp_path)["targeted"] is False and blind.column_names == ["row", "grad", "grad_norm"]
    first, second = (matrix(table, "grad")[0].astype(float) for table in (blind, read_signal(signal[0])))
    np.testing.assert_allclose(first, second, atol=2e-3)  # other batches and shards, the same vectors


def test_less_is_the_sum_over_checkpoints_with_their_learning_rates(
    small_pool, tiny_vlm_dir, warm, validation, tmp_path
):
    rates, parts = [3e-5, 1e-5], []
    for number, folder in enumerate(warm):
        score_gradients(small_pool, tiny_vlm_dir, tmp_path / str(number), validation=validation, adapters=[folder],
                        adam=[folder / "adam.safetensors"], **SETTINGS)  # fmt: skip
        parts.append(read_signal(tmp_path / str(number)))
    score_gradients(small_pool, tiny_vlm_dir, tmp_path / "both", validation=validation, adapters=warm, lr_weights=rates,
                    adam=[folder / "adam.safetensors" for folder in warm], **SETTINGS)  # fmt: skip
    both = read_signal(tmp_path / "both")
    assert both["grad"].type.list_size == 512
    ocr = [part["influence_ocr"].to_numpy() for part in parts]
    np.testing.assert_allclose(both["influence_ocr"].to_numpy(), 0.75 * ocr[0] + 0.25 * ocr[1], atol=1e-4)
    assert np.abs(ocr[0] - ocr[1]).max() > 0.01
    assert len(read_metadata(tmp_path / "both")["adapters"]) == 2


def test_adams_direction_is_the_step_that_adam_takes(tmp_path):
    """From the state after two steps: the third step of torch's own optimizer, learning rate left out."""
    torch.manual_seed(0)

    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.q_proj = torch.nn.Module()
            self.q_proj.lora_A = torch.nn.ModuleDict({"default": torch.nn.Linear(6, 2, bias=False)})

    from curation.signals.gradients.per_sample import Taps

    model = Two()
    weight = model.q_proj.lora_A["default"].weight
    optimizer = torch.optim.Adam([weight], lr=1.0)
    for _ in range(2):
        weight.grad = torch.randn(2, 6)
        optimizer.step()
    save_adam(model, optimizer, tmp_path / "adam.safetensors")
    state = AdamState(tmp_path / "adam.safetensors", Taps(model, "default"), torch.device("cpu"))
    before, gradient = weight.detach().clone(), torch.randn(2, 6)
    weight.grad = gradient.clone()
    optimizer.step()
    step = state.direction(0, gradient.flatten()[None])[0].view(2, 6)
    torch.testing.assert_close(step, before - weight.detach(), atol=1e-5, rtol=1e-4)


def test_adam_shapes_the_pools_gradients_only(small_pool, tiny_vlm_dir, warm, validation, tmp_path):
    plain, shaped = tmp_path / "plain", tmp_path / "shaped"
    score_gradients(small_pool, tiny_vlm_dir, plain, validation=validation, adapters=[warm[0]], **SETTINGS)
    score_gradients(small_pool, tiny_vlm_dir, shaped, validation=validation, adapters=[warm[0]],
                    adam=[warm[0] / "adam.safetensors"], prefix="adam_", **SETTINGS)  # fmt: skip
    one, other = read_signal(plain), read_signal(shaped)
    assert other.column_names == [
        "row",
        "adam_grad",
        "adam_grad_norm",
        "adam_influence_mme",
        "adam_influence_ocr",
    ]
    np.testing.assert_allclose(one["grad_norm"], other["adam_grad_norm"], rtol=1e-5)
    ours, theirs = matrix(one, "grad")[0].astype(np.float32), matrix(other, "adam_grad")[0].astype(np.float32)
    assert np.abs(ours - theirs).max() > 0.05
    direction = np.stack([ours[[0, 1]].mean(axis=0)])  # of plain gradients, whatever the pool's are
    np.testing.assert_allclose(
        other["adam_influence_ocr"].to_numpy(), influence(theirs, direction), atol=2e-3
    )


def test_what_has_no_gradient_is_null_and_counted(
    small_pool, tiny_vlm_dir, validation, tmp_path, monkeypatch
):
    shutil.copytree(small_pool.folder.parent, tmp_path / "copy")
    pool = Pool.open(tmp_path / "copy" / small_pool.folder.name)
    pool[3].images[0].write_bytes(b"no picture any more")
    plain = Vlm.hidden

    def spoiled(self, batch):
        hidden = plain(self, batch)
        factor = torch.ones(len(hidden), 1, 1)
        factor[0] = float("nan")
        return hidden * factor

    monkeypatch.setattr(Vlm, "hidden", spoiled)
    summary = score_gradients(pool, tiny_vlm_dir, tmp_path / "s", **{**SETTINGS, "max_tokens": 100_000})
    table = read_signal(tmp_path / "s")
    assert summary["missing"] == {"broken_image": 1, "not_finite": 1} and summary["rows_missing"] == 2
    lost = table["grad"].is_null().to_pylist()
    assert lost[3] and sum(lost) == 2 and table["grad_norm"].is_null().to_pylist() == lost
    assert np.isfinite(matrix(table, "grad")[0][~np.array(lost)].astype(float)).all()


def test_a_gradient_of_zero_has_a_norm_and_no_vector(
    small_pool, tiny_vlm_dir, validation, tmp_path, monkeypatch
):
    plain = Vlm.hidden
    monkeypatch.setattr(Vlm, "hidden", lambda self, batch: plain(self, batch).detach().requires_grad_())
    summary = score_gradients(small_pool, tiny_vlm_dir, tmp_path, **SETTINGS)
    table = read_signal(tmp_path)
    assert summary["missing"] == {"zero_gradient": 40}
    assert table["grad_norm"].to_pylist() == [0.0] * 40 and table["grad"].null_count == 40


def test_a_second_run_keeps_what_is_there(signal, small_pool, tiny_vlm_dir, validation, tmp_path):
    shutil.copytree(signal[0], tmp_path / "s")
    (tmp_path / "s" / "part-00001.parquet").unlink()
    summary = score_gradients(
        small_pool, tiny_vlm_dir, tmp_path / "s", validation=validation, shard_rows=16, **SETTINGS
    )
    assert (summary["rows_kept"], summary["rows_computed"]) == (24, 16)
    assert read_signal(tmp_path / "s").equals(read_signal(signal[0]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr_weights": [1e-5]}, "belong to trained adapters"),
        ({"adapters": ["nowhere"]}, "holds no PEFT adapter"),
        ({"targets": ["no_proj"]}, "no layer of the decoder is one of no_proj"),
    ],
)
def test_adapters_that_do_not_fit_are_refused(small_pool, tiny_vlm_dir, tmp_path, settings, message):
    with pytest.raises(AdapterError, match=message):
        score_gradients(small_pool, tiny_vlm_dir, tmp_path, **SETTINGS, **settings)


def test_weights_and_states_must_fit_the_adapters(small_pool, tiny_vlm_dir, warm, tmp_path):
    for settings in (
        {"lr_weights": [1.0]},
        {"lr_weights": [1.0, 0.0]},
        {"adam": [warm[0] / "adam.safetensors"]},
    ):
        with pytest.raises(AdapterError, match="2 adapters need as many positive weights"):
            score_gradients(small_pool, tiny_vlm_dir, tmp_path, adapters=warm, **SETTINGS, **settings)


# ------------------------------------------------------------------------------------------------- validation sets


def test_validation_sets_are_read_from_pools_json_and_tables(small_pool, tmp_path):
    from_pool = read_validation(small_pool.folder, tmp_path / "scratch")
    assert [s.source for s in from_pool[:3]] == ["src0", "src1", "src2"] and len(from_pool) == 40
    from_json = read_validation(small_pool.folder.parent / "data.json", tmp_path / "scratch")
    assert validation_hash(from_json) == validation_hash(from_pool)
    image = {"bytes": small_pool[0].images[0].read_bytes(), "path": None}
    table = pa.table(
        {
            "image": [image, None],
            "question": ["what ?", "why ?"],
            "answer": ["dog", "yes"],
            "kind": ["word", "word"],
        }
    )
    (tmp_path / "bench").mkdir()
    pq.write_table(table, tmp_path / "bench" / "ocr.parquet")
    first, second = read_validation(tmp_path / "bench", tmp_path / "scratch")
    assert (first.source, first.turns[0].question, first.turns[0].answer) == ("ocr", "<image>\nwhat ?", "dog")
    assert len(first.images) == 1 and second.images == () and second.turns[0].question == "why ?"


def test_tasks_and_subtasks_come_from_the_source(small_pool):
    samples = [replace(small_pool[0], source=source) for source in ("b/x", "a", "b/y", "b/x")]
    assert tasks_of(samples) == {"a": {"": [1]}, "b": {"x": [0, 3], "y": [2]}}


@pytest.mark.parametrize(
    ("sources", "message"),
    [(["a-b", "a b"], "no name of its own"), ([""], "no name of its own"), ([], "empty")],
)
def test_task_names_that_cannot_be_columns_are_refused(small_pool, sources, message):
    with pytest.raises(ValidationError, match=message):
        tasks_of([replace(small_pool[0], source=source) for source in sources])


def test_a_folder_without_validation_samples_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(ValidationError, match="neither a pool"):
        read_validation(tmp_path, tmp_path / "scratch")
    pq.write_table(pa.table({"question": ["x"]}), tmp_path / "ocr.parquet")
    with pytest.raises(ValidationError, match=r"lacks the columns \['answer', 'image'\]"):
        read_validation(tmp_path, tmp_path / "scratch")


def test_a_task_whose_samples_all_fail_is_an_error(small_pool, tiny_vlm_dir, tmp_path):
    shutil.copytree(small_pool.folder.parent, tmp_path / "copy")
    pool = Pool.open(tmp_path / "copy" / small_pool.folder.name)
    broken = replace(pool[0], source="ocr")
    broken.images[0].write_bytes(b"none")
    with pytest.raises(
        validation_sets.ValidationError, match="none of the 1 validation samples of ocr/ has a gradient"
    ):
        score_gradients(small_pool, tiny_vlm_dir, tmp_path / "s", validation=[broken], **SETTINGS)


def test_the_command_takes_a_json_validation_set(small_pool, tiny_vlm_dir, tmp_path, capsys):
    from curation.signals.__main__ import main

    arguments = [
        "gradients",
        "--pool",
        str(small_pool.folder),
        "--model",
        str(tiny_vlm_dir),
        "--out",
        str(tmp_path / "s"),
    ]
    params = [
        "dim=64",
        "r=1",
        "targets=v_proj",
        "adapters=null",
        "device=cpu",
        f"validation={small_pool.folder.parent / 'data.json'}",
    ]
    assert main([*arguments, *(word for param in params for word in ("--param", param))]) == 0
    assert json.loads(capsys.readouterr().out)["targeted"] is True
    assert read_metadata(tmp_path / "s")["tasks"] == ["src0", "src1", "src2"]
    assert read_metadata(tmp_path / "s")["lora"]["targets"] == ["v_proj"]
