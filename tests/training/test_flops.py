import numpy as np
import pytest
import tiny_models
import torch
from torch.utils.flop_counter import FlopCounterMode

from training.collate import Collator
from training.flops import FORWARD, THROUGH, TRAINED, Part, Shape, image_patches, mfu, peak
from training.models import image_mode, load


@pytest.fixture(scope="module")
def qwen2_7b():
    """LLaVA-OneVision-7B."""
    from transformers import LlavaOnevisionConfig, Qwen2Config, SiglipVisionConfig

    text = Qwen2Config(
        vocab_size=152_064,
        hidden_size=3584,
        intermediate_size=18_944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        tie_word_embeddings=False,
    )
    vision = SiglipVisionConfig(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=26,
        num_attention_heads=16,
        image_size=384,
        patch_size=14,
        vision_use_head=False,
    )
    return Shape.of(LlavaOnevisionConfig(text_config=text, vision_config=vision))


def test_a_7b_model_by_hand(qwen2_7b):
    # A block of Qwen2-7B: q and o 3584 x 3584, k and v 3584 x 512, three of 3584 x 18944.
    block = 2 * 3584**2 + 2 * 3584 * 512 + 3 * 3584 * 18_944
    one = qwen2_7b.forward(1, labels=1, patches=729)
    assert one["language"] == 28 * 2 * block == pytest.approx(13.05e9, rel=1e-3)
    assert one["head"] == 2 * 3584 * 152_064
    # Token t attends to t tokens: query by key and weight by value are 2 x 2 FLOPs for each of 3584 numbers.
    long = qwen2_7b.forward(1000)
    assert long["attention"] == 28 * 4 * 3584 * 1000 * 1001 / 2
    tower = 26 * (4 * 1152**2 + 2 * 1152 * 4304) + 3 * 14 * 14 * 1152
    assert one["vision"] == 2 * tower * 729
    assert one["sight"] == 26 * 4 * 1152 * 729**2
    assert one["projector"] == 2 * (1152 * 3584 + 3584**2) * 729
    # Fully trained, linear layers and head take six FLOPs a weight and token (as in 6 N D).
    full = qwen2_7b.training(1000, labels=1000)[0] - 3 * long["attention"]
    assert full == pytest.approx(6 * (28 * block + 3584 * 152_064) * 1000)


def test_frozen_parts_take_the_passes_that_they_need():
    everything = {"vision": TRAINED, "projector": TRAINED, "language": TRAINED, "head": TRAINED}
    assert Shape.passes(("vision", "projector", "language")) == everything
    assert Shape.passes(("projector", "language")) == everything | {"vision": FORWARD}
    stage1 = {"vision": FORWARD, "projector": TRAINED, "language": THROUGH, "head": THROUGH}
    assert Shape.passes(("projector",)) == stage1
    lora = {"vision": FORWARD, "projector": FORWARD, "language": THROUGH, "head": THROUGH}
    assert Shape.passes((), ("language",)) == lora
    assert Shape.passes((), ("vision",))["vision"] == THROUGH


def test_lora_costs_two_passes_and_its_adapters(qwen2_7b):
    forward = qwen2_7b.forward(500, 100, 729)
    got = qwen2_7b.training(500, 100, 729, trained=(), lora=("language",), rank=64)[0]
    layers = 28 * sum(a + b for a, b in [(3584, 3584)] * 2 + [(3584, 512)] * 2 + [(3584, 18_944)] * 3)
    adapters = 6 * 64 * layers * 500
    frozen = forward["vision"] + forward["sight"] + forward["projector"]
    own = 2 * (forward["language"] + forward["head"]) + 3 * forward["attention"]
    assert got == pytest.approx(frozen + own + adapters)


@pytest.mark.parametrize("kind", tiny_models.KINDS)
def test_the_count_is_what_pytorch_executes(kind, tmp_path, draw):
    """Forward pass of one sample: linear layers and head as PyTorch's own counter counts them."""
    from curation.pool.sample import Sample, Turn
    from training.render import Renderer

    model, processor = load(tiny_models.build(kind, tmp_path / "m"))
    renderer = Renderer(processor, image_mode(model))
    example = renderer.encode(Sample(0, "a", "t", (draw(0, (56, 56)),), (Turn("<image> what ?", "red"),)))
    batch = Collator(renderer.pad_id, renderer.loader)([example])
    shape = Shape.of(model.config)
    pixels = batch["pixel_values"]
    patches = len(pixels) if not shape.tile else pixels.flatten(0, -4).shape[0] * shape.tile
    model.set_attn_implementation("eager")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(**batch)
    flops = shape.forward(len(example), len(example), patches, 1)
    dense = sum(flops[name] for name in ("language", "head", "vision", "projector"))
    attention = (
        flops["attention"] * 2 * len(example) / (len(example) + 1) + flops["sight"]
    )  # eager: all pairs
    assert counter.get_total_flops() == pytest.approx(dense + attention, rel=0.05)


def test_windows_of_qwen_see_less():
    vision = Part(1000, 10, 100)
    full = Shape(vision=vision, language=Part(0), head=Part(0), projector=Part(0), tile=0, merge=4)
    some = Shape(
        vision=vision, language=Part(0), head=Part(0), projector=Part(0), tile=0, window=64, whole=0.25
    )
    assert full.forward(0, patches=1024, images=1)["sight"] == 4 * 100 * 1024 * 1024
    assert full.forward(0, patches=1024, images=2)["sight"] == 4 * 100 * 1024 * 512
    assert some.forward(0, patches=1024, images=1)["sight"] == 4 * 100 * 1024 * (0.25 * 1024 + 0.75 * 64)


def test_patches_follow_from_image_tokens(qwen2_7b):
    # One tile with its newline is one tile; 4,000 tokens of anyres are 6 tiles; two images of 730 are two.
    got = image_patches(qwen2_7b, [0, 729, 4000, 1458], [0, 1, 1, 2])
    assert got.tolist() == [0, 729, 6 * 729, 2 * 729]


def test_costs_are_arrays(qwen2_7b):
    costs = qwen2_7b.training(np.array([10, 20]), np.array([1, 2]), np.array([0, 729]))
    assert costs.shape == (2,) and costs[1] > 2 * costs[0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10G", None),
        ("NVIDIA A10", 125e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("cpu", None),
    ],
)
def test_peaks_are_found_by_the_device_name(name, expected):
    assert peak(name) == expected


def test_mfu_by_hand():
    # 8,000 tokens a second at 49 GFLOP each, on a device of 989 TFLOP/s: 39.6 %.
    assert mfu(8000 * 49e9, 1.0, 989e12) == pytest.approx(0.396, abs=1e-3)
    assert mfu(8000 * 49e9, 2.0, 989e12, devices=4) == pytest.approx(0.396 / 8, abs=1e-3)
