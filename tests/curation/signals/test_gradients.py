"""Per-sample LoRA gradients against autograd, their projection, and influence on a validation set."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.pool.read import Pool
from curation.pool.sample import Sample, Turn
from curation.signals.core.table import read_metadata, read_signal
from curation.signals.core.vector_files import matrix
from curation.signals.core.vlm import Vlm
from curation.signals.gradients import validation as validation_sets
from curation.signals.gradients.per_sample import AdamState, fresh_adapter, sample_gradients, trained_adapters
from curation.signals.gradients.producer import Sketch, influence, score_gradients, task_directions
from curation.signals.gradients.validation import ValidationError, read_validation, tasks_of, validation_hash
from training.adapters import AdapterError, plain_name, save_adam

torch = pytest.importorskip("torch")
SETTINGS = {"dim": 256, "r": 2, "device": "cpu", "max_tokens": 600}


@pytest.fixture(scope="module")
def warm(tiny_vlm_dir, tmp_path_factory):
    """Two adapters, as after one and two steps of a warm-up training, with Adam's state."""
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


def per_sample_gradients(vlm, hooks, examples):
    """[samples, D]: the gradients sent layer by layer, concatenated."""
    out = torch.zeros(len(examples), hooks.size)

    def sink(index, gradient):
        out[:, hooks.offsets[index] : hooks.offsets[index] + gradient.shape[1]] = gradient

    assert all(sample_gradients(vlm, hooks, examples, sink))
    return out


def by_autograd(vlm, hooks, adapter, example):
    """[D]: the gradient of the model's own loss on one sample, by torch.autograd."""
    weights = {
        plain_name(name.removesuffix(".weight"), adapter): p
        for name, p in vlm.model.named_parameters()
        if "lora_" in name
    }
    loss = vlm.model(**vlm.collator([example])).loss
    gradients = torch.autograd.grad(loss, [weights[name] for name in hooks.names])
    return torch.cat([g.flatten() for g in gradients])


@pytest.mark.parametrize("step", [1, 2])
def test_gradients_of_a_batch_equal_autograd_sample_by_sample(tiny_vlm_dir, small_pool, warm, step):
    vlm = Vlm(tiny_vlm_dir, device="cpu")
    _, adapters = trained_adapters(vlm, [warm[step - 1]], [], [])
    rows = (0, 4, 6, 39)  # one image, none, two; one to three turns
    examples = [vlm.renderer.encode(small_pool[row]) for row in rows]
    ours = per_sample_gradients(vlm, adapters[0].hooks, examples)
    assert {name.rsplit(".", 1)[1] for name in adapters[0].hooks.names} == {"lora_A", "lora_B"}
    for gradient, example in zip(ours, examples, strict=True):
        expected = by_autograd(vlm, adapters[0].hooks, "0", example)
        assert gradient.norm() > 1e-3
        torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-4)
    assert all(p.grad is None for p in vlm.model.parameters()), "nothing is accumulated over batches"


def test_a_new_adapter_has_gradients_of_b_only_and_is_reproducible(tiny_vlm_dir, small_pool):
    gradients = []
    for seed in (0, 0, 1):
        vlm = Vlm(tiny_vlm_dir, device="cpu")
        torch.rand(seed + 5)  # what was drawn before does not matter
        _, (adapter,) = fresh_adapter(vlm, r=2, alpha=4, targets=("q_proj", "down_proj"), seed=seed)
        example = vlm.renderer.encode(small_pool[0])
        gradients.append(per_sample_gradients(vlm, adapter.hooks, [example])[0])
        assert {name.rsplit(".", 2)[1:][0] + name[-7:] for name in adapter.hooks.names} == {
            "q_proj.lora_B",
            "down_proj.lora_B",
        }
        torch.testing.assert_close(
            gradients[-1], by_autograd(vlm, adapter.hooks, "default", example), atol=1e-6, rtol=1e-4
        )
    assert torch.equal(gradients[0], gradients[1]) and not torch.allclose(gradients[0], gradients[2])


@pytest.fixture(scope="module")
def validation(small_pool):
    """Six samples of the pool as two tasks, one of them with two subtasks."""
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
    influences = [f"{raw}influence_{task}" for raw in ("", "raw_") for task in ("mme", "ocr")]
    assert table.column_names == ["row", "grad", "grad_norm", *influences]
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
    exact = per_sample_gradients(
        vlm, adapter.hooks, [vlm.renderer.encode(small_pool[row]) for row in (0, 4, 39)]
    )
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
    norms = table["grad_norm"].to_numpy().astype(np.float64)  # projection keeps lengths but for its error
    raw = (inner * norms)[:, [0, 1]].mean(axis=1)
    assert np.corrcoef(table["raw_influence_ocr"].to_numpy(), raw)[0, 1] > 0.99
    np.testing.assert_allclose(
        np.linalg.norm(table["raw_influence_ocr"].to_numpy()), np.linalg.norm(raw), rtol=0.2
    )


def test_the_metadata_record_the_target_tasks(signal, validation, small_pool, tiny_vlm_dir, tmp_path):
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
        score_gradients(
            small_pool,
            tiny_vlm_dir,
            tmp_path / str(number),
            validation=validation,
            adapters=[folder],
            adam=[folder / "adam.safetensors"],
            **SETTINGS,
        )
        parts.append(read_signal(tmp_path / str(number)))
    score_gradients(
        small_pool,
        tiny_vlm_dir,
        tmp_path / "both",
        validation=validation,
        adapters=warm,
        lr_weights=rates,
        adam=[folder / "adam.safetensors" for folder in warm],
        **SETTINGS,
    )
    both = read_signal(tmp_path / "both")
    assert both["grad"].type.list_size == 512
    ocr = [part["influence_ocr"].to_numpy() for part in parts]
    np.testing.assert_allclose(both["influence_ocr"].to_numpy(), 0.75 * ocr[0] + 0.25 * ocr[1], atol=1e-4)
    assert np.abs(ocr[0] - ocr[1]).max() > 0.01
    assert len(read_metadata(tmp_path / "both")["adapters"]) == 2


def test_adams_direction_is_the_update_of_torchs_adam(tmp_path):
    """From the state after two steps: the third step of torch's own optimizer, learning rate left out."""
    torch.manual_seed(0)

    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.q_proj = torch.nn.Module()
            self.q_proj.lora_A = torch.nn.ModuleDict({"default": torch.nn.Linear(6, 2, bias=False)})

    from curation.signals.gradients.per_sample import GradientHooks

    model = Two()
    weight = model.q_proj.lora_A["default"].weight
    optimizer = torch.optim.Adam([weight], lr=1.0)
    for _ in range(2):
        weight.grad = torch.randn(2, 6)
        optimizer.step()
    save_adam(model, optimizer, tmp_path / "adam.safetensors")
    hooks = GradientHooks(model, "default")
    state = AdamState(tmp_path / "adam.safetensors", hooks, torch.device("cpu"), "clean")
    before, gradient = weight.detach().clone(), torch.randn(2, 6)
    weight.grad = gradient.clone()
    optimizer.step()
    step = state.direction(0, gradient.flatten()[None])[0].view(2, 6)
    torch.testing.assert_close(step, before - weight.detach(), atol=1e-5, rtol=1e-4)


def test_the_released_direction_has_epsilon_under_the_root(tmp_path):
    """Gradients near 1e-4, whose squares are as large as epsilon, against the formula in plain numbers."""
    from safetensors.torch import save_file

    from curation.signals.gradients.per_sample import GradientHooks

    model = torch.nn.Module()
    model.q_proj = torch.nn.Module()
    model.q_proj.lora_A = torch.nn.ModuleDict({"default": torch.nn.Linear(40, 1, bias=False)})
    hooks = GradientHooks(model, "default")
    rng = np.random.default_rng(0)
    sizes = 1e-4 * 10 ** rng.uniform(-1.5, 1, 40)
    m, v, g = (rng.normal(0, 0.3, 40) * sizes, sizes**2 * 0.02, rng.normal(0, 1, 40) * sizes)
    moments = {"exp_avg": torch.tensor(m), "exp_avg_sq": torch.tensor(v)}
    saved = {f"{hooks.names[0]}.{name}": value.float() for name, value in moments.items()}
    save_file(saved | {"step": torch.tensor(20)}, tmp_path / "adam.safetensors")

    def direction(rule):
        state = AdamState(tmp_path / "adam.safetensors", hooks, torch.device("cpu"), rule)
        return state.direction(0, torch.tensor(g, dtype=torch.float32)[None])[0].double().numpy()

    released = [
        (0.9 * a + 0.1 * c) / math.sqrt(0.999 * b + 0.001 * c * c + 1e-8)
        for a, b, c in zip(m, v, g, strict=True)
    ]
    own = [
        (0.9 * a + 0.1 * c)
        / (1 - 0.9**21)
        / (math.sqrt((0.999 * b + 0.001 * c * c) / (1 - 0.999**21)) + 1e-8)
        for a, b, c in zip(m, v, g, strict=True)
    ]
    np.testing.assert_allclose(direction("published"), released, rtol=1e-4)
    np.testing.assert_allclose(direction("clean"), own, rtol=1e-4)
    cosine = np.dot(released, own) / np.linalg.norm(released) / np.linalg.norm(own)
    assert cosine < 0.8
    with pytest.raises(AdapterError, match="direction must be one of published, clean, got 'adam'"):
        direction("adam")


def test_raw_influence_weighs_validation_gradients_by_their_length():
    """Two validation samples at right angles, of lengths 1 and 3."""
    samples = [Sample(row, str(row), "mme", (), (Turn("q", "a"),)) for row in range(2)]
    sketches = [
        Sketch(np.array([1.0, 0.0], np.float32), 1.0, np.array([1.0], np.float32)),
        Sketch(np.array([0.0, 1.0], np.float32), 9.0, np.array([3.0], np.float32)),
    ]
    unit, raw = (task_directions(samples, sketches, raw=raw)["mme"] for raw in (False, True))
    assert unit.tolist() == [[0.5, 0.5]] and raw.tolist() == [[0.5, 1.5]]
    pool = np.array([[0.8, 0.6]], np.float32)
    assert influence(pool, unit) == pytest.approx(0.7) and influence(pool, raw) == pytest.approx(1.3)
    two = [Sketch(np.array([0.6, 0.8], np.float32), 1.0, np.array([2.0, 5.0], np.float32))] * 2
    np.testing.assert_allclose(task_directions(samples, two, raw=True)["mme"], [[1.2, 4.0]], rtol=1e-6)


def test_adam_is_applied_to_the_pools_gradients_only(small_pool, tiny_vlm_dir, warm, validation, tmp_path):
    plain, shaped = tmp_path / "plain", tmp_path / "shaped"
    score_gradients(small_pool, tiny_vlm_dir, plain, validation=validation, adapters=[warm[0]], **SETTINGS)
    score_gradients(
        small_pool,
        tiny_vlm_dir,
        shaped,
        validation=validation,
        adapters=[warm[0]],
        adam=[warm[0] / "adam.safetensors"],
        prefix="adam_",
        **SETTINGS,
    )
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


def test_samples_without_a_gradient_are_null_and_counted(
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


def test_a_second_run_keeps_finished_parts(signal, small_pool, tiny_vlm_dir, validation, tmp_path):
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
        ({"lr_weights": [1e-5]}, "lr_weights and adam need trained adapters"),
        ({"adapters": ["nowhere"]}, "is not a PEFT adapter"),
        ({"targets": ["no_proj"]}, "the decoder has no layer named no_proj"),
    ],
)
def test_unusable_adapters_are_refused(small_pool, tiny_vlm_dir, tmp_path, settings, message):
    with pytest.raises(AdapterError, match=message):
        score_gradients(small_pool, tiny_vlm_dir, tmp_path, **SETTINGS, **settings)


def test_weights_and_states_must_match_the_adapters(small_pool, tiny_vlm_dir, warm, tmp_path):
    for settings in (
        {"lr_weights": [1.0]},
        {"lr_weights": [1.0, 0.0]},
        {"adam": [warm[0] / "adam.safetensors"]},
    ):
        with pytest.raises(AdapterError, match="2 adapters need 2 positive weights"):
            score_gradients(small_pool, tiny_vlm_dir, tmp_path, adapters=warm, **SETTINGS, **settings)


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
    [
        (["a-b", "a b"], "no unique column influence_a_b, already taken by 'a-b'"),
        ([""], "no unique column influence_"),
        ([], "empty"),
    ],
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
