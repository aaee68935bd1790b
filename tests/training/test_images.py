import pytest
import torch
from PIL import ImageFile

from curation.pool.images import rgb
from training.images import ImageError, PixelLoader


@pytest.mark.parametrize("size", [(64, 64), (100, 100), (90, 40), (31, 77), (1, 1), (200, 3)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "I;16"])
def test_base_mode_equals_the_processors_tile_of_a_multi_image_sample(loaded, draw, size, mode):
    _, processor = loaded
    image = draw(3, size).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = image.convert("I").point(lambda v: v * 200).convert("I;16")
    loader = PixelLoader(processor, "base")
    ours = loader.batch([[loader.read(image)]])
    image = rgb(image)  # the processor by itself cuts 16 bits off at 255
    theirs = processor.image_processor([[image, image]], return_tensors="pt")
    torch.testing.assert_close(ours["pixel_values"][0], theirs["pixel_values"][0][0], atol=1e-6, rtol=0)


def test_base_mode_asks_the_model_for_one_tile_each(loaded, draw):
    loader = PixelLoader(loaded[1], "base")
    tiles = [loader.read(draw(seed)) for seed in range(3)]
    assert loader.batch([tiles[:1]])["batch_num_images"].tolist() == [2]
    assert loader.batch([tiles[:1], [], tiles[1:]])["batch_num_images"].tolist() == [3]
    assert loader.batch([[], []]) == {}
    assert loader.tokens([draw(0)]) == [17]


def test_cache_is_bounded_and_serves_the_same_pixels(loaded, tmp_path, draw):
    paths = [tmp_path / f"{i}.png" for i in range(100)]
    for i, path in enumerate(paths):
        draw(i).save(path)
    loader = PixelLoader(loaded[1], "base", cache_mb=1)
    first = [loader.read(path) for path in paths]
    assert sum(tile.numel() for tile in loader._cache.values()) <= (1 << 20) + first[0].numel()
    assert 80 <= len(loader._cache) < 100
    paths[0].unlink()
    assert torch.equal(loader.read(paths[0]), first[0])
    assert loader.read(draw(1)) is not loader.read(draw(1))


@pytest.mark.parametrize("lenient", [False, True], ids=["strict", "after a package made PIL lenient"])
def test_bad_files_raise_typed_errors_that_name_the_file(loaded, tmp_path, draw, lenient, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    loader = PixelLoader(loaded[1], "base")
    for suffix in ("png", "jpg"):
        draw(0, (300, 300)).save(tmp_path / f"cut.{suffix}")
        data = (tmp_path / f"cut.{suffix}").read_bytes()
        (tmp_path / f"cut.{suffix}").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not an image")
    for name in ("cut.png", "cut.jpg", "empty.png", "text.png"):
        with pytest.raises(ImageError, match=name) as caught:
            loader.read(tmp_path / name)
        assert caught.value.reason == "broken_image"
    with pytest.raises(ImageError) as caught:
        loader.read(tmp_path / "absent.png")
    assert caught.value.reason == "missing_image"


def test_anyres_counts_are_what_the_model_makes(tmp_path, tokenizer, draw):
    from training.models import build_tiny, load

    model, processor = load(build_tiny(tmp_path, tokenizer, hidden=32, layers=1, vision_layers=1, heads=2))
    grid = [[64, 64], [64, 128], [128, 64], [128, 128]]
    model.config.image_grid_pinpoints = processor.image_processor.image_grid_pinpoints = grid
    loader = PixelLoader(processor, "anyres")
    singles, pair = [draw(1, (64, 64)), draw(2, (150, 60)), draw(3, (128, 120))], [draw(4), draw(5, (50, 80))]
    for pictures in [[s] for s in singles] + [pair]:
        inputs = loader.batch([[loader.read(p) for p in pictures]])
        features = model.get_image_features(**inputs).pooler_output
        assert [len(f) for f in features] == loader.tokens(pictures)


def test_unknown_mode_is_refused(loaded):
    with pytest.raises(ValueError, match="anyres"):
        PixelLoader(loaded[1], "tiles")


def test_blank_has_the_shape_of_what_it_stands_for(loaded, tmp_path, draw):
    path = tmp_path / "wide.png"
    draw(0, (90, 40)).save(path)
    assert PixelLoader(loaded[1], "base").blank(path).shape == (3, 64, 64)
    assert PixelLoader(loaded[1], "anyres").blank(path).shape == (3, 40, 90)
