"""Every kind of damaged, hostile or odd image file gets its reason at each level; sound ones get none."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from curation.pool.image_check import LEVELS, MAX_PIXELS, Check
from curation.pool.images import rgb
from curation.pool.phash import phash
from curation.pool.reasons import REASONS

SIZE = (96, 64)


def photo(size=SIZE, seed=0):
    """A picture with detail at all scales, so that damage to its file is damage to what it shows."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 255, (5, 7, 3), np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    return Image.blend(coarse, Image.fromarray(random.integers(0, 255, (*size[::-1], 3), np.uint8)), 0.2)


def encoded(kind, image=None, **options):
    buffer = io.BytesIO()
    (image or photo()).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def check(tmp_path):
    """(bytes or None, name, level, settings) -> facts of that file."""

    def checked(data, name="a", level="full", **settings):
        if data is not None:
            (tmp_path / name).write_bytes(data)
        return Check(str(tmp_path), level, **settings)(name)

    return checked


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width, height):
    """A PNG of a few bytes that says that it is large: the bomb is in the header."""
    rows = zlib.compress(b"\0" * (1 + width // 8 + 1) * 64)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def keyed(image, **options):
    """A picture of which one colour is transparent."""
    return encoded("PNG", image, transparency=0 if image.mode == "P" else (0, 0, 0), **options)


ALPHA = Image.fromarray(np.full((4, 6, 4), 128, np.uint8))
SOUND = {
    "jpeg": encoded("JPEG"),
    "jpeg of 4:2:0": encoded("JPEG", subsampling=2),
    "progressive": encoded("JPEG", progressive=True),
    "jpeg with restarts": encoded("JPEG", restart_marker_blocks=2),
    "jpeg in RGB": encoded("JPEG", keep_rgb=True),
    "grey jpeg": encoded("JPEG", photo().convert("L")),
    "cmyk jpeg": encoded("JPEG", photo().convert("CMYK")),
    "mpo": encoded("MPO", save_all=True, append_images=[photo(seed=1)]),
    "jpeg with a tail": encoded("JPEG") + b"camera data" * 100,
    "png": encoded("PNG"),
    "png with a tail": encoded("PNG") + b"\0" * 5000,
    "interlaced grey png": encoded("PNG", photo().convert("L")),
    "16 bits": encoded("PNG", Image.fromarray(np.arange(6000, dtype=np.uint16).reshape(60, 100))),
    "1 bit": encoded("PNG", photo().convert("1")),
    "palette": encoded("PNG", photo().convert("P")),
    "apng": encoded("PNG", save_all=True, append_images=[photo(seed=1)]),
    "gif": encoded("GIF"),
    "animated gif": encoded("GIF", save_all=True, append_images=[photo(seed=1), photo(seed=2)]),
    "gif with a tail": encoded("GIF") + b"tail",
    "webp": encoded("WEBP"),
    "lossless webp": encoded("WEBP", lossless=True),
    "animated webp": encoded("WEBP", save_all=True, append_images=[photo(seed=1)]),
    "webp with a tail": encoded("WEBP") + b"tail",
    "bmp": encoded("BMP"),
    "tiff": encoded("TIFF"),
    "lzw tiff": encoded("TIFF", compression="tiff_lzw"),
    "avif": encoded("AVIF"),
    "jpeg 2000": encoded("JPEG2000"),
    "rgba": encoded("PNG", ALPHA),
    "rgba webp": encoded("WEBP", ALPHA),
    "rgba by palette": keyed(photo().convert("P")),
    "rgba by key colour": keyed(photo()),
    "rgba gif": encoded("GIF", Image.linear_gradient("L").crop((0, 0, *SIZE)), transparency=0),
}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", SOUND)
def test_a_sound_file_of_any_kind_is_sound(check, kind, level):
    facts = check(SOUND[kind], level=level)
    assert (facts.reason, facts.detail) == (None, None)
    stored = Image.open(io.BytesIO(SOUND[kind]))
    assert (facts.width, facts.height) == stored.size
    assert (facts.mode, facts.format, facts.size) == (stored.mode, stored.format, len(SOUND[kind]))
    assert facts.alpha == ("rgba" in kind) and facts.orientation == 1


@pytest.mark.parametrize("kind", SOUND)
def test_the_pixels_that_are_hashed_are_those_that_are_trained_on(check, kind):
    facts = check(SOUND[kind])
    assert facts.phash == phash(rgb(Image.open(io.BytesIO(SOUND[kind]))))


def test_frames_are_counted_where_the_header_says_them_and_everywhere_at_level_full(check):
    full = {kind: check(data).frames for kind, data in SOUND.items()}
    several = {kind: frames for kind, frames in full.items() if frames != 1}
    assert several == {"animated gif": 3, "apng": 2, "animated webp": 2, "mpo": 2}
    header = {kind: check(data, level="header").frames for kind, data in SOUND.items()}
    unknown = {kind for kind, frames in header.items() if frames is None}
    assert unknown == {kind for kind in SOUND if "gif" in kind or "tiff" in kind}
    assert all(header[kind] == full[kind] for kind in full.keys() - unknown)


def cut_jpeg(image, **options):
    data = encoded("JPEG", image, **options)
    return data[: len(data) // 3] + b"\xff\xd9"


def holed_jpeg(image, **options):
    data = bytearray(encoded("JPEG", image, **options))
    start, stop = len(data) // 2, len(data) * 3 // 4
    data[start:stop] = bytes(stop - start)
    return bytes(data)


@pytest.mark.parametrize("damage", [cut_jpeg, holed_jpeg])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_pil_fills_with_grey_is_found(check, damage, mode, progressive):
    data = damage(photo((400, 300)).convert(mode), progressive=progressive, quality=90)
    with Image.open(io.BytesIO(data)) as image:
        image.load()  # not a word
    assert check(data, level="header").reason is None
    facts = check(data)
    assert facts.reason in ("image_truncated", "image_broken") and facts.phash is None
    assert facts.reason == "image_truncated" or damage is holed_jpeg
    assert (facts.format, facts.mode, len(facts.bytes_hash)) == ("JPEG", mode, 16)


def test_a_damaged_photo_that_is_turned_is_found_too(check):
    exif = Image.Exif()
    exif[0x0112] = 6
    assert check(cut_jpeg(photo(), exif=exif)).reason == "image_truncated"
    facts = check(encoded("JPEG", exif=exif))
    assert (facts.reason, facts.orientation, facts.width, facts.height) == (None, 6, *SIZE[::-1])
    assert facts.phash == phash(photo_of(encoded("JPEG")).transpose(Image.Transpose.ROTATE_270))


def photo_of(data):
    return Image.open(io.BytesIO(data)).convert("RGB")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_png_with_any_bit_wrong_is_found(data):
    sound = encoded("PNG", photo((20, 10)))
    at = data.draw(st.integers(0, len(sound) - 1))
    bad = bytearray(sound)
    bad[at] ^= 1 << data.draw(st.integers(0, 7))
    facts = facts_of(bytes(bad), "full")
    # the length of a chunk is not in its checksum, but then the next one is not where it should be
    assert facts.reason in ("image_broken", "image_truncated", "image_too_large")


def facts_of(data, level, name="a"):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, name), "wb") as file:
            file.write(data)
        return Check(folder, level)(name)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of PIL, about what it finds there
@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(SOUND)), st.data())
def test_a_file_with_any_damage_gets_facts_and_a_known_reason(kind, data):
    bad = bytearray(SOUND[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        bad[data.draw(st.integers(0, len(bad) - 1))] = data.draw(st.integers(0, 255))
    bad = bad[: data.draw(st.integers(1, len(bad)))]
    for level in LEVELS:
        facts = facts_of(bytes(bad), level)
        assert facts.reason is None or facts.reason in REASONS
        assert (facts.reason is None) == (facts.detail is None)
        assert facts.reason or (facts.width and facts.height)
        assert level == "header" or facts.reason or facts.phash is not None


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    "kind", ["png", "jpeg", "gif", "webp", "bmp", "tiff", "avif", "jpeg 2000", "cmyk jpeg"]
)
@pytest.mark.parametrize("part", [0.2, 0.5, 0.9])
def test_a_file_that_ends_early_is_found_from_its_header_and_its_end(check, kind, part, level):
    data = SOUND[kind]
    facts = check(data[: int(len(data) * part)], level=level)
    assert facts.reason in ("image_truncated", "image_broken")
    assert facts.reason == "image_truncated" or part == 0.2 or kind in ("avif", "jpeg 2000", "tiff")


def test_webp_is_complete_by_its_length_and_not_decoded_for_it(check, monkeypatch):
    from PIL import WebPImagePlugin

    def load(image):
        raise AssertionError("decoded")

    monkeypatch.setattr(WebPImagePlugin.WebPImageFile, "load", load)
    assert check(SOUND["webp"], level="header").reason is None
    facts = check(SOUND["webp"][:-1], level="header")
    assert facts.reason == "image_truncated" and "bytes" in facts.detail


@pytest.mark.parametrize("level", LEVELS)
def test_what_is_no_image_says_so(check, level):
    assert check(b"", level=level).reason == "image_empty"
    assert check(b"<html>404 not found</html>", level=level).reason == "image_broken"
    assert check(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", level=level).reason == "image_broken"
    assert check(None, name="absent", level=level).reason == "image_missing"
    assert check(None, name="nul\0", level=level).reason == "image_missing"
    assert check(None, name="lone \ud800", level=level).reason == "image_missing"


@pytest.mark.parametrize("level", LEVELS)
def test_folders_pipes_sockets_and_devices_are_not_opened(tmp_path, check, level):
    import socket

    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "folder.png").mkdir()
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(tmp_path / "socket.png"))
        for name in ("pipe.png", "socket.png", "link.png"):
            facts = check(None, name=name, level=level)
            assert facts.reason == "image_broken" and "not a regular file" in facts.detail
    assert check(None, name="/dev/zero", level=level, allow_outside=True).reason == "image_broken"
    assert check(None, name="loop.png", level=level).reason == "image_broken"
    assert check(None, name="folder.png", level=level).reason == "image_missing"


@pytest.mark.parametrize("level", LEVELS)
def test_an_image_outside_the_folder_is_read_only_where_that_is_allowed(tmp_path, level):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "a.png").write_bytes(SOUND["png"])
    (inside / "link.png").symlink_to(outside / "a.png")
    (inside / "folder").symlink_to(outside)
    escapes = (
        "../outside/a.png",
        str(outside / "a.png"),
        "link.png",
        "x/../../outside/a.png",
        "folder/../outside/a.png",
    )
    strict, loose = Check(str(inside), level), Check(str(inside), level, allow_outside=True)
    for name in escapes:
        assert strict(name).reason == "image_outside" and strict(name).size is None, name
    for name in (*escapes[:3], "a.png"):
        assert loose(name).reason is None, name
    assert strict("a.png").reason is None
    # whoever set up the folder put the link there; the data cannot
    assert strict("folder/a.png").reason is None


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("level", LEVELS)
def test_a_small_file_of_many_pixels_is_not_decoded(check, monkeypatch, level):
    data = png_of(13_000, 13_000)
    assert len(data) < 1000

    def load(image):
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    facts = check(data, level=level)
    assert (facts.reason, facts.width) == ("image_too_large", 13_000) and "13,000 x 13,000" in facts.detail
    assert (
        check(png_of(20_000, 20_000), level=level, max_pixels=10**9).reason == "image_too_large"
    )  # Pillow's own
    assert 9459**2 < MAX_PIXELS < 9460**2


@pytest.mark.parametrize("level", LEVELS)
def test_the_limit_of_pixels_is_the_largest_image_allowed(check, level):
    assert check(SOUND["png"], level=level, max_pixels=96 * 64).reason is None
    assert check(SOUND["png"], level=level, max_pixels=96 * 64 - 1).reason == "image_too_large"


def tiff(values):
    return encoded("TIFF", Image.fromarray(values))


@pytest.mark.parametrize("level", LEVELS)
def test_values_without_a_known_range_are_refused_and_not_shown_black(check, level):
    ramp = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    for values in (ramp, (ramp * 1e6).astype(np.int32), -(ramp * 100).astype(np.int32)):
        facts = check(tiff(values), level=level)
        assert facts.reason == "unsupported_mode" and facts.mode in facts.detail
    assert check(tiff((ramp * 65535).astype(np.int32)), level=level).reason is None
    assert check(encoded("TIFF", photo().convert("LAB")), level=level).reason == "unsupported_mode"


def test_equal_files_have_equal_hashes(check):
    first, again, other = (check(SOUND[kind]) for kind in ("png", "png", "png with a tail"))
    assert first.bytes_hash == again.bytes_hash != other.bytes_hash
    assert first.phash == other.phash


def test_pil_is_strict_although_a_package_made_it_lenient(check, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert check(SOUND["png"][: len(SOUND["png"]) // 2]).reason == "image_truncated"
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def test_a_file_that_cannot_be_read_is_broken(check, monkeypatch):
    from curation.pool import image_check

    def failing(image):
        raise MemoryError

    monkeypatch.setattr(image_check, "rgb", failing)
    assert check(SOUND["png"]).reason == "image_crash"
    monkeypatch.setattr(image_check, "_check_riff", lambda file, path, size: os.read(file.fileno() + 999, 1))
    facts = check(SOUND["png"], level="header")
    assert facts.reason == "image_broken" and "Bad file descriptor" in facts.detail


def test_what_is_no_image_is_said_in_the_same_words_each_time(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"text")
    details = {Check(str(tmp_path), level)("a.jpg").detail for level in ("header", "full", "full")}
    assert details == {f"no image of a known format: {tmp_path / 'a.jpg'}"}
