"""How images are fitted to the model: padded, cropped or tiled, and that a checkpoint remembers it."""

import json

import numpy as np
import pytest
import tiny_models
import torch
from PIL import Image

from curation.pool.sample import Sample, Turn
from training.aspects import set_aspect
from training.fit import fit
from training.images import PixelLoader
from training.models import image_mode, load, load_processor
from training.render import Renderer
from training.spec import FitSpec


def wide(width=64, height=36):
    """Red on the left, blue on the right, green in the middle."""
    pixels = np.full((height, width, 3), (0, 255, 0), np.uint8)
    pixels[:, : width // 6], pixels[:, -width // 6 :] = (255, 0, 0), (0, 0, 255)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("aspects")
    return {kind: tiny_models.build(kind, root / kind) for kind in ("llava", "anyres", "qwen")}


def pixels_of(processor, mode, image):
    loader = PixelLoader(processor, mode)
    return loader.batch([[loader.read(image)]])["pixel_values"][0]


def test_padding_keeps_all_of_a_picture_and_cropping_its_middle(folders):
    processor, _ = load_processor(folders["llava"])
    colours = {"red": (1, 0, 0), "blue": (0, 0, 1)}
    mean, std = (
        torch.tensor(v).view(3, 1, 1)
        for v in (processor.image_processor.image_mean, processor.image_processor.image_std)
    )
    for mode, kept in (("pad", True), ("crop", False), ("anyres", False)):
        shown = pixels_of(processor, mode, wide()) * std + mean
        assert shown.shape == (3, 28, 28)
        for colour in colours.values():
            near = (shown - torch.tensor(colour).view(3, 1, 1)).abs().amax(0) < 0.1
            assert bool(near.any()) == kept, (mode, colour)
    padded = pixels_of(processor, "pad", wide())
    assert padded[:, :4].abs().max() < 0.02  # the mean colour is zero after normalisation


def test_padding_is_what_the_processor_makes_of_a_square_padded_beforehand(folders):
    processor, _ = load_processor(folders["llava"])
    mean = tuple(int(v * 255) for v in processor.image_processor.image_mean)
    square = Image.new("RGB", (64, 64), mean)
    square.paste(wide(), (0, 14))
    theirs = processor.image_processor([square], return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(pixels_of(processor, "pad", wide()), theirs, atol=1e-5, rtol=0)
    assert PixelLoader(processor, "pad").tokens([wide()]) == PixelLoader(processor, "crop").tokens([wide()])


@pytest.mark.parametrize(
    ("kind", "aspect", "grids", "mode", "own"),
    [
        ("llava", "pad", None, "pad", None),
        ("llava", "crop", None, "crop", None),
        ("anyres", "base", None, "base", None),
        ("anyres", "pad", None, "base", None),
        ("anyres", "anyres", [[64, 64], [64, 128]], "anyres", [[64, 64], [64, 128]]),
        ("anyres", "anyres_max_4", "(1x1),...,(2x2)", "anyres", [[64, 64], [128, 64], [64, 128], [128, 128]]),
        ("anyres", None, "(1x1)", "anyres", [[64, 64]]),
    ],
)
def test_the_choice_is_in_the_processor_the_config_and_the_saved_checkpoint(
    folders, tmp_path, kind, aspect, grids, mode, own
):
    turns = (Turn("<image> what ?", "red"),)
    samples = [Sample(i, str(i), "t", (wide(),), turns) for i in range(2)]
    spec = FitSpec(max_steps=1, batch_size=2, image_aspect=aspect, image_grids=grids)
    fit(spec, folders[kind], samples, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    model, processor = load(tmp_path / "out")
    assert image_mode(model) == config["image_mode"] == mode == load_processor(tmp_path / "out")[1]
    if own is not None:
        read = sorted(map(list, processor.image_processor.image_grid_pinpoints))
        assert read == sorted(own) == sorted(config["image_grid_pinpoints"])
    if aspect == "anyres_max_4":
        assert config["vision_aspect_ratio"] == processor.vision_aspect_ratio == aspect
    if mode == "anyres":  # what is counted is what the model makes
        loader = PixelLoader(processor, mode)
        shown = wide(200, 90)
        inputs = loader.batch([[loader.read(shown)]])
        assert [len(f) for f in model.get_image_features(**inputs).pooler_output] == loader.tokens(
            [wide(200, 90)]
        )
    Renderer(processor, mode).encode(samples[0])


@pytest.mark.parametrize(
    ("kind", "aspect", "grids", "message"),
    [
        ("llava", "anyres", None, "must be one of pad, crop"),
        ("llava", "pad", [[28, 28]], "image_grids are for tiles"),
        ("anyres", "crop", None, "must be one of anyres, base, pad, anyres_max_N"),
        ("anyres", "anyres", [[64, 65]], "multiples of 64"),
        ("qwen", "pad", None, "leave it out"),
    ],
)
def test_what_a_model_cannot_do_is_refused(folders, kind, aspect, grids, message):
    processor, mode = load_processor(folders[kind])
    with pytest.raises(ValueError, match=message):
        set_aspect(processor, mode, aspect, grids)


def test_without_a_choice_nothing_changes(folders):
    processor, mode = load_processor(folders["anyres"])
    before = processor.image_processor.to_json_string()
    assert set_aspect(processor, mode, None) == mode
    assert processor.image_processor.to_json_string() == before
