"""LLaVA-NeXT and OneVision on tiles: the logits after conversion equal those of the parts, tile by tile."""

import json

import pytest
import torch
from llava_parts import (
    ACROSS,
    ROWS,
    SHAPE,
    SIDE,
    WIDTH,
    make_parts,
    normalised,
    picture,
    text_of,
    weights_on_disk,
    write_llava,
)
from PIL import Image

from curation.pool.sample import Sample, Turn
from training.collate import Collator
from training.convert import ConversionError, convert_llava_next
from training.convert.images import Images, read_grids, read_images
from training.models import load
from training.render import Renderer

NEXT = {"tower": True, "newline": True, "mm_patch_merge_type": "spatial_unpad", "rope_theta": 1e4}
CLIP, SIGLIP = ({**SHAPE, "model_type": f"{kind}_vision_model"} for kind in ("clip", "siglip"))
WIDE = [[2 * SIDE, SIDE]]
"""One grid in LLaVA's notation: two tiles side by side."""


def packed(parts, tiles, rows, columns, size, limit=None):
    """The features of one image [n, WIDTH]: the whole image, then `rows` x `columns` tiles.

    `size`: (width, height) of the picture; the rows of patches that padding added are left out. `limit`: the
    N of anyres_max_N. Each line of patches ends with the newline.
    """
    base, *cut = parts.features(tiles)
    lines = [
        torch.cat(
            [cut[row * columns + column].view(ACROSS, ACROSS, WIDTH) for column in range(columns)], dim=1
        )
        for row in range(rows)
    ]
    patches = torch.cat(lines)
    width, height = size
    assert width / height >= columns / rows, "the padding must be above and below"
    padding = (len(patches) - int(height * ACROSS * columns / width)) // 2
    patches = patches[padding : len(patches) - padding]
    if limit and (ratio := (len(patches) * patches.shape[1] / (limit * ACROSS**2)) ** 0.5) > 1.1:
        smaller = [int(len(patches) // ratio), int(patches.shape[1] // ratio)]
        patches = torch.nn.functional.interpolate(patches.permute(2, 0, 1)[None], smaller, mode="bilinear")[
            0
        ].permute(1, 2, 0)
    ends = parts.newline.expand(len(patches), 1, WIDTH)
    return torch.cat([base, torch.cat([patches, ends], dim=1).flatten(0, 1)])


def tiles_of(image, mean, std):
    """The two tiles of a picture of at most 2 SIDE x SIDE pixels that is as wide as both, on black."""
    canvas = Image.new("RGB", (2 * SIDE, SIDE))
    canvas.paste(image, (0, (SIDE - image.height) // 2))
    whole = normalised(canvas, mean, std)
    return torch.stack([whole[:, :, :SIDE], whole[:, :, SIDE:]])


@torch.no_grad()
def assert_same_logits(out, parts, heights=(SIDE, SIDE // 2), limit=None):
    model, processor = load(out)
    mean, std = processor.image_processor.image_mean, processor.image_processor.image_std
    for sizes in ((), *([(2 * SIDE, height)] for height in heights)):
        pictures = [picture(seed, *size) for seed, size in enumerate(sizes)]
        inputs = processor(text=[text_of(len(pictures))], images=pictures or None, return_tensors="pt")
        features = []
        for i, image in enumerate(pictures):
            tiles = inputs["pixel_values"][i]
            torch.testing.assert_close(tiles[1:], tiles_of(image, mean, std), atol=1e-5, rtol=0)
            features.append(packed(parts, tiles, 1, 2, image.size, limit))
        expected = parts.logits(inputs["input_ids"][0], processor.image_token_id, features)
        assert expected.std() > 0.1
        actual = model(**inputs).logits[0][:, :ROWS]
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    return model, processor


@pytest.mark.parametrize(
    ("language", "architecture", "mark"),
    [
        ("llama", "LlavaLlamaForCausalLM", "USER: "),
        ("mistral", "LlavaMistralForCausalLM", "[INST] "),
        ("qwen2", "LlavaQwenForCausalLM", "USER: "),
    ],
)
def test_clip_with_tiles_becomes_a_llava_next(tmp_path, language, architecture, mark):
    parts = make_parts(language)
    source = write_llava(
        tmp_path / "s", parts, architecture, **NEXT, image_aspect_ratio="anyres", image_grid_pinpoints=WIDE
    )
    out = convert_llava_next(source, tmp_path / "out", vision_config=CLIP)
    model, processor = assert_same_logits(out, parts)
    assert model.config.model_type == "llava_next" and model.config.image_mode == "anyres"
    assert model.config.image_grid_pinpoints == [[SIDE, 2 * SIDE]]  # Transformers: height first
    assert model.config.text_config.model_type == language and mark in processor.chat_template
    names = weights_on_disk(out)
    assert {"image_newline", "vision_tower.vision_model.post_layernorm.weight"} <= names
    assert {"language_model.lm_head.weight", "multi_modal_projector.linear_2.bias"} <= names


@pytest.mark.parametrize(("aspect", "limit"), [("anyres", None), ("anyres_max_9", None), ("anyres_max_1", 1)])
def test_siglip_with_tiles_scales_down_what_exceeds_the_limit(tmp_path, aspect, limit):
    parts = make_parts("qwen2", clip=False)
    source = write_llava(tmp_path / "s", parts, "LlavaQwenForCausalLM", **NEXT, image_aspect_ratio="pad")
    out = convert_llava_next(
        source, tmp_path / "out", vision_config=SIGLIP, image_aspect=aspect, grids="(2x1),(2x1)"
    )
    model, processor = assert_same_logits(out, parts, limit=limit)
    assert model.config.image_mode == "anyres" and model.config.model_type == "llava_onevision"
    assert processor.vision_aspect_ratio == model.config.vision_aspect_ratio


def test_several_images_of_a_llava_next_are_all_tiled(tmp_path):
    parts = make_parts()
    source = write_llava(
        tmp_path / "s", parts, **NEXT, image_aspect_ratio="anyres", image_grid_pinpoints=WIDE
    )
    model, processor = load(convert_llava_next(source, tmp_path / "out", vision_config=CLIP))
    pictures = [picture(0, 2 * SIDE, SIDE), picture(1, 2 * SIDE, SIDE // 2)]
    inputs = processor(text=[text_of(2)], images=pictures, return_tensors="pt")
    with torch.no_grad():
        features = [
            packed(parts, tiles, 1, 2, image.size)
            for tiles, image in zip(inputs["pixel_values"], pictures, strict=True)
        ]
        expected = parts.logits(inputs["input_ids"][0], processor.image_token_id, features)
        actual = model(**inputs).logits[0][:, :ROWS]
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_renderer_and_the_collator_feed_a_converted_llava_next(tmp_path):
    parts = make_parts()
    source = write_llava(
        tmp_path / "s", parts, **NEXT, image_aspect_ratio="anyres", image_grid_pinpoints=WIDE
    )
    model, processor = load(convert_llava_next(source, tmp_path / "out", vision_config=CLIP))
    renderer = Renderer(processor, model.config.image_mode)
    images = (picture(0, 2 * SIDE, SIDE // 2),)
    encoded = renderer.encode(Sample(0, "a", "t", images, (Turn("<image>\nWhat?", "Two."),)))
    batch = Collator(renderer.pad_id, renderer.loader)([encoded])
    batch.pop("labels")
    features = [packed(parts, batch["pixel_values"][0], 1, 2, images[0].size)]
    expected = parts.logits(encoded.input_ids.astype(int), renderer.image_id, features)
    torch.testing.assert_close(model(**batch).logits[0][:, :ROWS], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("aspect", "given", "mode"),
    [
        ("pad", None, "base"),
        ("anyres_max_9", None, "anyres"),
        ("anyres", "base", "base"),
    ],
)
def test_the_image_mode_of_a_onevision(tmp_path, aspect, given, mode):
    parts = make_parts("qwen2", clip=False)
    source = write_llava(
        tmp_path / "s",
        parts,
        "LlavaQwenForCausalLM",
        **NEXT,
        image_aspect_ratio=aspect,
        image_grid_pinpoints=WIDE,
    )
    out = convert_llava_next(source, tmp_path / "out", vision_config=SIGLIP, image_mode=given)
    config = json.loads((out / "config.json").read_text())
    tiled = aspect.startswith("anyres")
    assert config["image_mode"] == mode
    assert config["image_grid_pinpoints"] == [[SIDE, 2 * SIDE if tiled else SIDE]]


def test_a_onevision_is_never_cropped(tmp_path):
    source = write_llava(
        tmp_path / "s",
        make_parts("qwen2", clip=False),
        "LlavaQwenForCausalLM",
        **NEXT,
        image_aspect_ratio=None,
    )
    message = (
        "image_mode crop does not fit llava_onevision .* image aspect crop: it must be one of base, anyres"
    )
    with pytest.raises(ConversionError, match=message):
        convert_llava_next(source, tmp_path / "out", vision_config=SIGLIP)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_aspect": "pad"}, "with a CLIP tower needs the image aspect anyres, not pad"),
        ({"image_aspect": "anyres_max_1"}, "needs the image aspect anyres, not anyres_max_1"),
        ({"image_mode": "pad"}, "image_mode pad does not fit llava_next .* must be one of anyres"),
        ({"grids": "(2x1"}, "image_grid_pinpoints must be sizes or a range of grids"),
        ({"grids": "[[100, 56]]"}, "must be multiples of a tile's 56 pixels"),
        ({"image_aspect": "anyres_max_0"}, "image aspect must be pad, crop, square, anyres or anyres_max_N"),
    ],
)
def test_what_no_class_computes_is_refused_before_weights_are_read(tmp_path, options, message):
    source = write_llava(
        tmp_path / "s", make_parts(), **NEXT, image_aspect_ratio="anyres", image_grid_pinpoints=WIDE
    )
    (source / "model.safetensors").unlink()
    with pytest.raises(ConversionError, match=message):
        convert_llava_next(source, tmp_path / "out", vision_config=CLIP, **options)


@pytest.mark.parametrize(
    ("notation", "sizes"),
    [
        ("(1x1),...,(2x3)", [[10, 10], [20, 10], [30, 10], [10, 20], [20, 20], [30, 20]]),
        ("(1x1), ..., (1x2)", [[10, 10], [20, 10]]),
        ("(1x2), (3x1)", [[20, 10], [10, 30]]),
        ("[(10, 20), (30, 10)]", [[20, 10], [10, 30]]),
        ([[10, 20], (30, 10)], [[20, 10], [10, 30]]),
    ],
)
def test_grids_in_all_notations_have_the_width_first(notation, sizes):
    assert read_grids(notation, 10) == sizes


def test_aspects():
    assert read_images(None, None, 10) == read_images("square", None, 10) == Images("crop", [])
    tiled = read_images("anyres", "(1x1),...,(3x2)", 10)
    assert (tiled.most_tiles(10), tiled.limit(10)) == (6, 6)
    assert read_images("anyres_max_4", "(3x3),(1x1)", 10).limit(10) == 4
