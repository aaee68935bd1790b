"""The audit of a pool: what it finds, writes and prints; the page shows the worst and quotes text as text."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from markdown_it import MarkdownIt
from PIL import Image
from test_image_check import cut_jpeg, encoded, holed_jpeg, photo, png_of, tiff

from curation.pool import audit_report
from curation.pool.__main__ import main
from curation.pool.audit_page import EXAMPLES, examples, image_sources
from curation.pool.image_audit import IMAGE_SCHEMA, gate
from curation.pool.image_counts import by_side, image_counts, prefixes
from curation.pool.ingest import Options, build_pool
from curation.pool.read import Pool
from curation.pool.thumbnails import SIDE, write_thumbnails

EVIL = "vg/a|b`*[x](y)<img src=x onerror=alert(1)>.gif"


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded("JPEG", photo((40, 20)), exif=exif)


def broken_png():
    data = bytearray(encoded("PNG"))
    data[len(data) // 2] ^= 4
    return bytes(data)


FILES = {
    "coco/a.jpg": encoded("JPEG"),
    "coco/copy.jpg": encoded("JPEG"),
    "coco/cut.jpg": cut_jpeg(photo((200, 150))),
    "coco/hole.jpg": holed_jpeg(photo((200, 150)), quality=90),
    "coco/turned.jpg": turned(),
    "ocr/bad.png": broken_png(),
    "ocr/bomb.png": png_of(13_000, 13_000),
    "ocr/float.tif": tiff(np.zeros((4, 4), np.float32)),
    "ocr/alpha.png": encoded("PNG", photo().convert("RGBA")),
    "ocr/thin.png": encoded("PNG", photo((300, 8))),
    EVIL: encoded("GIF", save_all=True, append_images=[photo(seed=1)]),
}


def record(number, image):
    ask = {"from": "human", "value": "<image>\nwhat ?"}
    return {
        "id": f"r{number}",
        "image": image,
        "conversations": [ask, {"from": "gpt", "value": f"it {number}"}],
    }


def built(tmp_path, records=None, **options):
    images = tmp_path / "images"
    for name, data in FILES.items():
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        (images / name).write_bytes(data)
    default = [record(n, name) for n, name in enumerate([*FILES, "coco/absent.jpg"])]
    (tmp_path / "data.json").write_text(json.dumps(records or default))
    build_pool(
        tmp_path / "data.json", images, tmp_path / "pool", max_bad_fraction=0.9, options=Options(**options)
    )
    return Pool.open(tmp_path / "pool")


DAMAGED = {"coco/cut.jpg": "image_truncated", "coco/hole.jpg": None, "ocr/bad.png": "image_broken"}
"""What only a full decode finds; the hole is found as one of two kinds."""


def test_an_audit_finds_what_the_build_could_not(tmp_path, capsys):
    pool = built(tmp_path)
    names = pool.image_table["path"].to_pylist()
    assert set(DAMAGED) <= {names[ids[0]] for ids in pool.table["image_ids"].to_pylist()}
    bad = audit_report.audit(pool, workers=1)
    found = dict(
        zip(
            [names[ids[0]] for ids in pool.table["image_ids"].take(bad["row"]).to_pylist()],
            bad["reason"].to_pylist(),
            strict=True,
        )
    )
    assert found.keys() == DAMAGED.keys()
    assert all(found[name] == reason for name, reason in DAMAGED.items() if reason)
    again = Pool.open(tmp_path / "pool")
    assert again.hash == pool.hash and again.table.equals(pool.table)
    assert again.image_table.schema.names == IMAGE_SCHEMA.names
    counts = again.info["audit"]
    assert (counts["level"], counts["images"], counts["unusable_rows"]) == ("full", 12, 3)
    assert (counts["alpha"], counts["turned"], counts["animated"], counts["repeated_bytes"]) == (1, 1, 1, 1)
    assert sum(counts["reasons"].values()) == 6 and counts["formats"]["JPEG"] == 3
    audit_report._print_result(again, bad)
    printed = capsys.readouterr().out
    assert printed.startswith("3 of 9 samples name an unusable image; see ")
    assert "row 2 r2: image_truncated: Corrupt JPEG data" in printed


def test_the_command_audits_lists_and_drops(tmp_path, capsys):
    pool = built(tmp_path)
    arguments = ["audit", str(tmp_path / "pool"), "--workers", "1"]
    assert main([*arguments, "--drop", str(tmp_path / "sound")]) == 0
    printed = capsys.readouterr().out
    assert "3 of 9 samples name an unusable image" in printed and "6 samples -> " in printed
    assert re.search(r"^  image_broken \d+: \w+ \d+", printed, re.MULTILINE)
    sound = Pool.open(tmp_path / "sound")
    kept = [sample.id for sample in sound.samples()]
    assert kept == [
        f"r{n}" for n, name in enumerate(FILES) if name not in {*DAMAGED, "ocr/bomb.png", "ocr/float.tif"}
    ]
    reasons = pq.read_table(tmp_path / "sound" / "quarantine.parquet")["reason"].to_pylist()
    assert len(reasons) == 6 and "image_broken" in reasons
    assert (sound.info["audit"]["level"], sound.info["audit"]["unusable_rows"]) == ("full", 0)
    assert sound.info["parent"]["hash"] == pool.hash
    assert "6 samples, 12 images, 6 of them unusable" in (tmp_path / "sound" / "audit.md").read_text()
    assert main([*arguments, "--max-pixels", "1000"]) == 0
    assert "image_too_large 8" in capsys.readouterr().out


def test_the_command_refuses_before_it_works(tmp_path, capsys):
    built(tmp_path)
    before = sorted((tmp_path / "pool").iterdir())
    pool = str(tmp_path / "pool")
    for arguments, message in {
        (pool, "--drop", pool): "is the pool itself",
        (str(tmp_path), "--workers", "1"): "holds no finished pool",
        (pool, "--workers", "-1"): "must be a whole number of at least 0",
    }.items():
        try:
            status = main(["audit", *arguments])
        except SystemExit as exit:
            status = exit.code
        output = capsys.readouterr()
        assert status in (1, 2) and message in output.err and output.err.count("\n") == 1, arguments
    assert sorted((tmp_path / "pool").iterdir()) == before


def test_a_build_at_level_full_finds_the_same(tmp_path):
    pool = built(tmp_path, audit="full")
    paths = [pool.image_table["path"].to_pylist()[ids[0]] for ids in pool.table["image_ids"].to_pylist()]
    assert not set(paths) & DAMAGED.keys() and EVIL in paths
    assert len(audit_report.audit(pool, workers=1)) == 0


def test_an_audit_goes_on_where_it_was_interrupted(tmp_path, monkeypatch):
    from curation.pool import image_audit
    from curation.pool.image_check import Check

    pool = built(tmp_path)
    monkeypatch.setattr(audit_report, "_SLICE", 4)
    seen = []

    class Interrupted(Check):
        def __call__(self, name):
            seen.append(name)
            if len(seen) == 6:
                raise KeyboardInterrupt
            return super().__call__(name)

    monkeypatch.setattr(image_audit, "Check", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        audit_report.audit(pool, workers=0)
    assert Pool.open(tmp_path / "pool").info["audit"]["level"] == "header"
    done = Pool.open(tmp_path / "pool").image_table
    assert len(done) == 12 and done["bytes_hash"][4:].null_count == 8
    before = set(seen[:4]) & set(done.filter(pa.compute.is_null(done["reason"]))["path"].to_pylist())
    seen[:] = [None] * 10
    audit_report.audit(Pool.open(tmp_path / "pool"), workers=0)
    assert before and not before & set(seen[10:])
    images = Pool.open(tmp_path / "pool").image_table
    assert images["image"].to_pylist() == list(range(12))
    names = images["path"].to_pylist()
    assert images.equals(gate(names, pool.images, level="full").cast(images.schema))


def page_of(tmp_path):
    text = audit_report.write(tmp_path / "pool").read_text()
    return text, MarkdownIt("commonmark").enable("table").render(text)


def test_the_page_shows_the_damage_and_quotes_names_as_text(tmp_path):
    audit_report.audit(built(tmp_path), workers=1)
    text, html = page_of(tmp_path)
    assert "9 samples, 12 images, 6 of them unusable. Level full" in text
    pictures = re.findall(r'<img src="([^"]*)" alt="" />', html)
    assert len(pictures) == html.count("<img") and all(p.startswith("audit/image_") for p in pictures)
    assert "<td" in html and "onerror=alert(1)&gt;" in html and "a|b`*[x](y)&lt;img" in html
    for name in (
        "coco/cut.jpg",
        "coco/hole.jpg",
        "ocr/bad.png",
        "ocr/alpha.png",
        "coco/turned.jpg",
        "ocr/thin.png",
    ):
        line = next(line for line in text.splitlines() if name in line and line.startswith("| ![]("))
        file = tmp_path / "pool" / line.partition("](")[2].partition(")")[0]
        with Image.open(file) as thumbnail:
            assert thumbnail.format == "JPEG" and max(thumbnail.size) <= SIDE
    for name in ("ocr/bomb.png", "ocr/float.tif", "coco/absent.jpg"):  # not decoded for the page either
        assert any(line.startswith(f"|  | {name} |") for line in text.splitlines()), name
    assert not any(str(tmp_path) in line for line in text.splitlines() if line.startswith("| ![]("))
    columns = {len(re.split(r"(?<!\\)\|", line)) for line in text.splitlines() if EVIL[:4] in line}
    assert columns == {7}


def test_the_page_of_a_build_by_header_says_how_to_decode(tmp_path):
    built(tmp_path)
    text, _ = page_of(tmp_path)
    assert "Level header: " in text and "`python -m curation.pool audit` decodes them" in text
    assert "## Copies" not in text


def test_reasons_are_counted_by_input_where_there_are_several(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.png").write_bytes(FILES["ocr/alpha.png"])
    for name in ("one", "a|b"):
        records = [record(name + str(n), picture) for n, picture in enumerate(["a.png", "absent.png"])]
        (tmp_path / f"{name}.json").write_text(json.dumps(records))
    inputs = [tmp_path / "one.json", tmp_path / "a|b.json"]
    build_pool(inputs, images, tmp_path / "pool", max_bad_fraction=0.9)
    text, _ = page_of(tmp_path)
    assert "| one.json | image_missing | 1 |" in text and "| a\\|b.json | image_missing | 1 |" in text


def test_hash_halves_are_those_of_the_slice():
    hashes = pa.chunked_array([pa.array([bytes([n]) * 16 for n in range(5)], pa.binary(16))]).slice(2)
    assert prefixes(hashes).tolist() == [int.from_bytes(bytes([n]) * 8, "little") for n in (2, 3, 4)]


def test_thumbnails_of_an_earlier_page_are_gone(tmp_path):
    built(tmp_path)
    (tmp_path / "pool" / "audit").mkdir()
    for name in ("image_999.jpg", "mine.txt"):
        (tmp_path / "pool" / "audit" / name).touch()
    page_of(tmp_path)
    names = {path.name for path in (tmp_path / "pool" / "audit").iterdir()}
    assert "image_999.jpg" not in names and "mine.txt" in names and len(names) > 1


def test_a_pool_without_images_has_a_page(tmp_path):
    talk = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    pool = built(tmp_path, [{"id": "a", "conversations": talk}])
    assert len(audit_report.audit(pool, workers=1)) == 0
    text, _ = page_of(tmp_path)
    assert "1 samples, 0 images, 0 of them unusable" in text and "## Unusable images\n\nNone." in text


def test_a_sample_of_several_images_has_the_reason_of_its_first_bad_one():
    images = pa.table({"reason": [None, "image_broken", "image_missing"], "detail": [None, "x", "y"]})
    table = pa.table(
        {
            "row": pa.array([0, 1, 2, 3], pa.int32()),
            "id": ["a", "b", "c", "d"],
            "source": ["s", "t", "u", "v"],
            "image_ids": pa.array([[0, 2, 1], [], [0], [1]], pa.list_(pa.int32())),
        }
    )
    assert audit_report.unusable_rows(table, images).to_pylist() == [
        {"row": 0, "id": "a", "source": "s", "reason": "image_missing", "detail": "y"},
        {"row": 3, "id": "d", "source": "v", "reason": "image_broken", "detail": "x"},
    ]


def rows_of(**columns):
    """A table of sound images with these columns and nothing else known."""
    n = len(next(iter(columns.values())))
    full = [pa.array(columns.get(f.name, [None] * n), f.type) for f in IMAGE_SCHEMA]
    return pa.table(full, schema=IMAGE_SCHEMA)


def test_an_image_belongs_to_the_first_sample_that_names_it_or_to_its_folder():
    images = rows_of(path=["a/1.png", "b/2.png", "c/3.png", "4.png", "/abs/5.png", "../d/6.png"])
    ids = pa.array([[1], [0, 1], []], pa.list_(pa.int32()))
    pool = pa.table({"source": ["first", "second", "third"], "image_ids": ids})
    assert image_sources(pool, images).to_pylist() == ["second", "first", "c", *["unknown"] * 3]
    assert image_sources(pool.slice(0, 0), images).to_pylist()[:2] == ["a", "b"]


def test_sizes_are_counted_in_classes_that_leave_none_out():
    sides = [1, 31, 32, 63, 64, 2047, 2048, 4095, 4096, 20_000]
    counted = by_side(rows_of(width=sides, height=[1] * len(sides)))
    assert [n for _, n in counted if n] == [2, 2, 1, 1, 2, 2]
    assert counted[0] == ("below 32", 2) and counted[-1] == ("4096 and more", 2)
    assert sum(n for _, n in by_side(rows_of(width=[None, 5], height=[None, 9]))) == 1


def test_counts_are_over_usable_images_and_unknown_is_not_nought():
    images = rows_of(
        reason=[None, None, None, "image_broken"],
        format=["PNG", "PNG", "GIF", "PNG"],
        mode=["RGB", "RGBA", "P", "RGBA"],
        alpha=[False, True, True, True],
        orientation=[1, 6, 1, 3],
        frames=[1, 1, None, 4],
        bytes_hash=[b"a" * 16, b"a" * 16, None, b"a" * 16],
    )
    assert image_counts(images) == {
        "images": 4,
        "reasons": {"image_broken": 1},
        "formats": {"PNG": 2, "GIF": 1},
        "modes": {"P": 1, "RGB": 1, "RGBA": 1},
        "alpha": 2,
        "turned": 1,
        "animated": 0,
        "repeated_bytes": None,
    }
    assert image_counts(images.slice(0, 2))["repeated_bytes"] == 1


def test_only_the_first_of_each_kind_are_shown():
    images = rows_of(reason=["image_missing"] * 50, path=[f"{n}.png" for n in range(50)])
    ((kind, rows),) = examples(images)
    assert kind.startswith("image_missing: ") and rows["path"].to_pylist() == [
        f"{n}.png" for n in range(EXAMPLES)
    ]


def test_a_file_of_which_there_is_no_picture_has_no_thumbnail(tmp_path):
    sound, none = tmp_path / "a.png", tmp_path / "b.png"
    sound.write_bytes(encoded("PNG"))
    none.write_bytes(b"no image")
    made = write_thumbnails({sound: tmp_path / "1.jpg", none: tmp_path / "2.jpg"})
    assert made == {sound} and not (tmp_path / "2.jpg").exists()


def test_the_images_table_that_is_written_reads_back(tmp_path):
    pool = built(tmp_path)
    audit_report.audit(pool, workers=0)
    table = pq.read_table(tmp_path / "pool" / "images.parquet")
    sound = table.filter(pa.compute.is_null(table["reason"]))
    assert sound["bytes_hash"].null_count == sound["phash"].null_count == 0
