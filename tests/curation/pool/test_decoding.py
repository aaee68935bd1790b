"""One decoding rule: upright, transparent pixels on white, 16 bits scaled to 8, everything as RGB."""

import base64
import io

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from curation.pool.images import is_plain, orientation, rgb, upright_size
from curation.teacher.messages import data_url
from training.images import decode, image_size

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)
# What a viewer does to the stored rows and columns for each EXIF orientation (tag 0x0112 of its standard).
TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


def stored():
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[..., 0] = [[10, 60, 110], [160, 210, 250]]
    return pixels


def with_orientation(path, number):
    exif = Image.Exif()
    exif[0x0112] = number
    Image.fromarray(stored()).save(path, exif=exif, **({"quality": 100} if path.suffix == ".jpg" else {}))
    return path


@pytest.mark.parametrize("number", TURNS)
@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
def test_a_picture_is_turned_upright_and_its_header_gives_the_turned_size(tmp_path, number, suffix):
    path = with_orientation(tmp_path / f"a.{suffix}", number)
    if suffix == "webp":
        exif = Image.open(path).getexif()
        Image.fromarray(stored()).save(path, exif=exif, lossless=True)
    expected = TURNS[number](stored())
    np.testing.assert_array_equal(decode(path).permute(1, 2, 0).numpy(), expected)
    assert image_size(path) == expected.shape[:2] == upright_size(Image.open(path))
    np.testing.assert_array_equal(np.asarray(rgb(Image.open(path))), expected)


def test_a_photo_with_its_camera_on_the_side(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20), RED).save(tmp_path / "a.jpg", exif=exif)
    assert decode(tmp_path / "a.jpg").shape == (3, 40, 20) and image_size(tmp_path / "a.jpg") == (40, 20)


def test_an_impossible_orientation_counts_as_none(tmp_path):
    path = with_orientation(tmp_path / "a.png", 9)
    assert orientation(Image.open(path)) == 1 and image_size(path) == (2, 3)


def test_orientation_behind_the_pixels_of_a_png_is_not_looked_for(tmp_path):
    path = tmp_path / "late.png"
    Image.fromarray(stored()).save(path)
    exif = Image.Exif()
    exif[0x0112] = 6
    data, chunk = path.read_bytes(), io.BytesIO()
    PngImagePlugin.putchunk(chunk, b"eXIf", exif.tobytes()[6:])
    path.write_bytes(data[:-12] + chunk.getvalue() + data[-12:])
    assert decode(path).shape == (3, 2, 3) and image_size(path) == (2, 3)


def transparent():
    rgba = Image.new("RGBA", (3, 1), (255, 0, 0, 255))
    rgba.putpixel((1, 0), (0, 0, 0, 0))
    rgba.putpixel((2, 0), (0, 0, 255, 128))
    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, 0, 0, 0])
    palette.putpixel((1, 0), 1)
    palette.info["transparency"] = 1
    keyed = Image.new("RGB", (2, 1), RED)
    keyed.putpixel((1, 0), (0, 0, 0))
    keyed.info["transparency"] = (0, 0, 0)
    grey = Image.new("LA", (2, 1), (0, 255))
    grey.putpixel((1, 0), (0, 0))
    return {
        "RGBA": (rgba, [RED, WHITE, (127, 127, 255)]),
        "palette": (palette, [RED, WHITE]),
        "key colour": (keyed, [RED, WHITE]),
        "LA": (grey, [(0, 0, 0), WHITE]),
    }


@pytest.mark.parametrize("kind", transparent())
def test_transparent_pixels_lie_on_white(tmp_path, kind):
    image, expected = transparent()[kind]
    image.save(tmp_path / "a.png")
    assert [tuple(pixel) for pixel in np.asarray(rgb(image))[0]] == expected
    assert [tuple(pixel) for pixel in decode(tmp_path / "a.png").permute(1, 2, 0).numpy()[0]] == expected


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits_are_scaled_not_cut(tmp_path, suffix):
    values = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    grey = [0, 0, 1, 1, 128, 255]
    assert decode(tmp_path / f"a.{suffix}")[:, 0].tolist() == [grey] * 3
    assert np.asarray(rgb(Image.fromarray(values.astype(np.int32))))[0, :, 0].tolist() == grey


def test_other_modes_are_converted(tmp_path):
    for mode in ("1", "L", "P", "CMYK", "YCbCr", "HSV"):
        image = Image.new("RGB", (2, 2), WHITE).convert(mode)
        assert rgb(image).mode == "RGB" and np.asarray(rgb(image)).min() >= 254, mode
    plain = Image.new("RGB", (2, 2), RED)
    assert rgb(plain) is plain


def test_the_teacher_is_sent_the_pixels_that_are_trained_on(tmp_path):
    turned = with_orientation(tmp_path / "turned.png", 6)
    clear, deep, plain = tmp_path / "clear.png", tmp_path / "deep.png", tmp_path / "plain.jpg"
    transparent()["RGBA"][0].save(clear)
    Image.fromarray(np.array([[0, 40000]], np.uint16)).save(deep)
    Image.new("RGB", (2, 2), RED).save(plain)
    for path in (turned, clear, deep, plain):
        data = base64.b64decode(data_url(path).partition("base64,")[2])
        sent = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        np.testing.assert_array_equal(sent, decode(path).permute(1, 2, 0).numpy())
        assert (data == path.read_bytes()) == (path == plain) == is_plain(Image.open(path))
