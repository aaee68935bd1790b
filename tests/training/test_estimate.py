"""The estimates of a training, held against models that are built, run and trained."""

from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from encoded_lengths import of_encoded
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from curation.pool.sample import Sample, Turn
from training import presets
from training.estimate.__main__ import main, spec_of
from training.estimate.cost import estimate, flops, heaviest, volume
from training.estimate.lengths import Lengths
from training.estimate.memory import RESERVE, Engine, Forward, activations, memory
from training.estimate.published import PUBLISHED, image_tokens, published_of, shape_of
from training.estimate.shapes import PARTS, Shape, ShapeError
from training.families import of_config
from training.models import add_lora, freeze, load
from training.plan import global_batches
from training.spec import FitSpec, LoraSpec

KINDS = tiny_models.KINDS
DEPTH = 8
"""Blocks of the deep models: what lies before and after the blocks is not in the estimate of activations."""
WAYS = {
    "full": FitSpec(),
    "frozen tower": FitSpec(freeze=("vision",)),
    "projector": FitSpec(freeze=("vision", "language")),
    "lora": FitSpec(lora=LoraSpec(r=4)),
    "lora everywhere": FitSpec(lora=LoraSpec(r=4, parts=PARTS)),
}


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """checkpoint(kind) -> folder of a tiny checkpoint with DEPTH blocks in the tower and in the decoder."""
    root, made = tmp_path_factory.mktemp("estimate"), {}

    def of(kind: str) -> Path:
        if kind not in made:
            made[kind] = deepened(tiny_models.build(kind, root / kind))
        return made[kind]

    return of


def deepened(folder: Path) -> Path:
    from training.models import save_checkpoint

    model, processor = load(folder)
    text, vision = model.config.text_config, model.config.vision_config
    text.num_hidden_layers = DEPTH
    if getattr(text, "layer_types", None):
        text.layer_types = ["full_attention"] * DEPTH
    setattr(vision, "depth" if hasattr(vision, "depth") else "num_hidden_layers", DEPTH)
    return save_checkpoint(type(model)(model.config), processor, folder)


def prepared(folder: Path, spec: FitSpec):
    """The model as a training would have it, and its processor."""
    model, processor = load(folder)
    if spec.lora:
        return add_lora(model.train(), **spec.lora.model_dump()), processor
    freeze(model, spec.freeze)
    return model.train(), processor


def batch_of(folder: Path, processor):
    """One sample with an image as a batch without padding, and its Lengths."""
    from training.collate import Collator
    from training.models import load_processor
    from training.render import Renderer

    words = " ".join(["word"] * 60)
    image = Image.new("RGB", (64, 64), (200, 30, 30))
    sample = Sample(0, "0", "test", (image,), (Turn(f"<image> what {words}", f"red {words}"),))
    renderer = Renderer(processor, load_processor(folder)[1])
    encoded = renderer.encode(sample)
    batch = Collator(renderer.pad_id, renderer.loader)([encoded])
    batch.pop("attention_mask")
    return batch, of_encoded([encoded], processor.image_token_id)


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_of_a_file_and_of_a_configuration_are_those_of_the_model(kind, checkpoints):
    model, _ = load(checkpoints(kind))
    expected, family = dict.fromkeys(PARTS, 0), of_config(model.config)
    for name, parameter in model.named_parameters():
        expected[family.part_of(name)] += parameter.numel()
    from_file = Shape.of_checkpoint(checkpoints(kind))
    from_config = Shape.of_config(kind, model.config.to_dict())
    for shape in (from_file, from_config):
        assert {part: shape.parameters(part) for part in PARTS} == expected
        assert shape.blocks("language").count == DEPTH == shape.blocks("vision").count
        assert shape.blocks("language").query == model.config.text_config.hidden_size
    assert from_file.blocks("language") == from_config.blocks("language")
    assert from_file.blocks("vision") == from_config.blocks("vision")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_trained_parameters_are_those_of_the_model(kind, way, checkpoints):
    model, _ = prepared(checkpoints(kind), WAYS[way])
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sum(Shape.of_checkpoint(checkpoints(kind)).trained(WAYS[way]).values()) == trained


def test_parts_beside_adapters_are_trained_whole(checkpoints):
    shape = Shape.of_checkpoint(checkpoints("llava"))
    adapters = shape.trained(FitSpec(lora=LoraSpec(r=4)))
    both = shape.trained(FitSpec(lora=LoraSpec(r=4), train_parts=("projector",)))
    assert both == adapters | {"projector": shape.parameters("projector")}


PARAMETERS = {"llava15_7b": 7_063_427_072, "qwen25vl_3b": 3_754_622_976, "qwen25vl_7b": 8_292_166_656}
"""As the Hub counts them in the safetensors files of these models."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_their_published_size(name):
    shape = shape_of(name)
    if name in PARAMETERS:
        assert shape.parameters() == PARAMETERS[name]
    text, vision = PUBLISHED[name].config["text_config"], PUBLISHED[name].config["vision_config"]
    assert shape.vocabulary == text["vocab_size"] and shape.hidden == text["hidden_size"]
    assert shape.blocks("language").count == text["num_hidden_layers"]
    assert shape.blocks("language").inner == text["intermediate_size"]
    assert shape.blocks("vision").hidden == vision["hidden_size"]
    assert image_tokens(shape) == PUBLISHED[name].image_tokens


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_flops_are_those_that_torch_counts(kind, way, checkpoints):
    """Within 2 %; 10 % with anyres, whose tiles are estimated from the image tokens.

    Torch counts the whole score matrix of causal attention, of which the estimate counts half, and on a CPU
    no fused attention: hence plain attention.
    """
    model, processor = prepared(checkpoints(kind), WAYS[way])
    batch, lengths = batch_of(checkpoints(kind), processor)
    # As in a training, logits are computed at the labelled tokens only.
    head, keep = model.get_output_embeddings(), batch["labels"][:, 1:] >= 0
    body = (model.get_base_model() if WAYS[way].lora else model).model
    labels = batch.pop("labels")[:, 1:][keep]
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        logits = head(body(**batch).last_hidden_state[:, :-1][keep])
        torch.nn.functional.cross_entropy(logits, labels).backward()
    shape, tokens = Shape.of_checkpoint(checkpoints(kind)), int(lengths.tokens[0])
    unseen = 3 * 2 * shape.sizes.language.attention * tokens * (tokens - 1)
    assert flops(shape, WAYS[way], lengths) + unseen == pytest.approx(
        counter.get_total_flops(), rel=0.1 if kind == "anyres" else 0.02
    )


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_are_those_of_the_module_tree(kind, checkpoints):
    """Read from shapes of weights alone, without torch, they equal what `training.flops` reads of a model."""
    from transformers import AutoConfig

    from training.flops import Shape as Sizes

    own = Shape.of_checkpoint(checkpoints(kind)).sizes
    built = Sizes.of(AutoConfig.from_pretrained(checkpoints(kind)))
    for part in PARTS:
        assert getattr(own, part).weights == getattr(built, part).weights, part
        assert getattr(own, part).attention == getattr(built, part).attention, part
    assert (own.head.weights, own.tile, own.merge) == (built.head.weights, built.tile, built.merge)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_activations_are_what_autograd_keeps(kind, way, precision, checkpoints):
    """Within 8 %; bf16 with weights in bf16, as under DeepSpeed."""
    model, processor = prepared(checkpoints(kind), WAYS[way])
    batch, lengths = batch_of(checkpoints(kind), processor)
    update = {"precision": precision, "deepspeed": "zero2" if precision == "bf16" else None}
    spec = WAYS[way].model_copy(update=update)
    if precision == "bf16":
        model, batch["pixel_values"] = model.bfloat16(), batch["pixel_values"].bfloat16()
    batch.pop("labels")
    kept = kept_bytes(model, lambda: model.model(**batch) if not spec.lora else base_of(model)(**batch))
    shape = Shape.of_checkpoint(checkpoints(kind))
    counted = activations(shape, spec, heaviest(shape, spec.model_copy(update={"batch_size": 1}), lengths, 1))
    assert counted == pytest.approx(kept, rel=0.08)


def base_of(model):
    return model.get_base_model().model


def kept_bytes(model, run) -> int:
    """Bytes of the tensors that autograd keeps when `run` is called, weights and buffers left out."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = run()
    assert output.last_hidden_state.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("epochs", [1, 2.3])
@pytest.mark.parametrize("count", [3, 8, 21])
def test_steps_and_samples_are_those_of_the_plan(count, epochs):
    spec = FitSpec(epochs=epochs, batch_size=8)
    steps, passes = volume(spec, count)
    plan = [batch for epoch in range(3) for batch in global_batches(count, 8, 0, epoch)]
    assert steps == -(-epochs * -(-count // 8) // 1)
    assert round(passes * count) == sum(map(len, plan[: int(steps)]))
    assert volume(FitSpec(max_steps=2, batch_size=8), count)[0] == 2


def test_memory_falls_with_the_stage_and_the_processes():
    shape = shape_of("onevision_7b")
    forward = Forward(8192, 500, 3645)

    def of(stage: str | None, world: int, **more):
        spec = FitSpec(precision="bf16", deepspeed=stage, **more)
        return memory(shape, spec, Engine.of(stage, world), forward)

    states = [of(stage, 8).states for stage in ("zero0", "zero1", "zero2", "zero3")]
    assert states == sorted(states, reverse=True)
    # 16 bytes a trained parameter: 2 + 2 and 12 of Adam (arXiv 1910.02054, section 3.1)
    assert states[0] == 16 * shape.parameters()
    assert states[3] == pytest.approx(16 * shape.parameters() / 8)
    assert of("zero3", 64).gpu < of("zero3", 8).gpu
    offloaded = of("zero3_offload", 8)
    assert offloaded.weights == offloaded.optimizer == 0 and offloaded.host == pytest.approx(
        14 * shape.parameters() / 8
    )
    whole, again = of("zero2", 8).activations, of("zero2", 8, gradient_checkpointing=True).activations
    half = of("zero2", 8, gradient_checkpointing=2).activations
    assert again < whole / 10 and 0.4 * whole < half < 0.65 * whole
    assert of("zero2", 8, freeze=("vision", "language")).optimizer < of("zero2", 8).optimizer / 100
    assert of(None, 1).states == 16 * shape.parameters()
    assert of(None, 1).buffers > RESERVE


def test_the_heaviest_forward_pass_is_the_longest_examples():
    lengths = given([700, 1600, 30, 650], [1, 5, 9, 2], [576, 1152, 0, 576], [1, 2, 0, 1])
    shape = shape_of("llava15_7b")
    assert heaviest(shape, FitSpec(batch_size=4, micro_batch=2), lengths, 1) == Forward(3200, 14, 3 * 576)
    assert heaviest(shape, FitSpec(batch_size=4), lengths, 4) == Forward(1600, 9, 2 * 576)


def given(tokens, labels, image_tokens, images) -> Lengths:
    return Lengths(*map(np.array, (tokens, labels, image_tokens, images)), "given")


def test_what_is_too_long_is_cut_or_left_out():
    lengths = given([10, 50, 20], [1, 5, 9], [0, 0, 0], [0, 0, 0])
    assert lengths.within(20, "drop").tokens.tolist() == [10, 20]
    assert lengths.within(20, "truncate").tokens.tolist() == [10, 20, 20]
    assert lengths.within(None, "drop") is lengths
    with pytest.raises(ValueError, match="no example is left"):
        estimate(shape_of("onevision_05b"), FitSpec(max_length=5), lengths)


def test_an_epoch_of_llava_1_5_takes_the_published_time():
    """About 10 hours for 665,000 samples on 8 A100 40G at the 26 % MFU that this is (README of LLaVA)."""
    published = published_of("llava-hf/llava-1.5-7b-hf")
    lengths = Lengths.assumed(665_000, 242, 1, published.image_tokens)
    spec = FitSpec(batch_size=128, freeze=("vision",), precision="bf16")
    cost = estimate(shape_of("llava15_7b"), spec, lengths, gpu="a100_40", world=8, mfu=0.26)
    assert cost.steps == 5196 and cost.tokens == 665_000 * 818
    assert 9 < cost.hours < 11


def test_what_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(ShapeError, match="is not a checkpoint"):
        Shape.of_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ShapeError, match="no safetensors"):
        Shape.of_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(ShapeError, match="not a safetensors file"):
        Shape.of_checkpoint(tmp_path)
    with pytest.raises(ValueError, match="gpu must be one of"):
        estimate(shape_of("onevision_05b"), FitSpec(), Lengths.assumed(9, 9, 0, 0), gpu="tpu")


def test_the_command_prints_every_model_and_stage(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "180")
    models = ["--models", "onevision_05b,onevision_72b"]
    assert main([*models, "precision=bf16", "batch_size=64", "micro_batch=1", "--gpus", "8"]) == 0
    out = capsys.readouterr().out
    assert "onevision_05b" in out and "onevision_72b" in out and "zero3_offload" in out
    assert "665k" in out and "40% MFU (assumed)" in out and "fits" in out
    assert main(["--models", "unknown_1b"]) == 2
    assert "model must be one of" in capsys.readouterr().err
    assert main(["--mfu", "3"]) == 2
    assert spec_of(None, ["lr=2e-5", "freeze=[vision]"]).freeze == ("vision",)


@pytest.mark.parametrize("preset", presets.names())
def test_every_preset_has_an_estimate_of_its_published_size(preset, capsys, monkeypatch):
    """The 7B fits on 80 GB under the published ZeRO-3, as it did when it was published (128 or 8 GPUs)."""
    monkeypatch.setenv("COLUMNS", "180")
    model = {"llava": "llava15_7b", "qwen2": "qwen25vl_7b"}.get(preset[:5], "onevision_7b")
    gpus = "8" if model != "onevision_7b" else "128"
    assert main(["--preset", preset, "--models", model, "--stages", "zero3", "--gpus", gpus]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "zero3" in line)
    assert row.split("│")[-3].strip() == "fits", row
