"""Pool hash, ids and content hashes of plain LLaVA files and of the mini world never change."""

import hashlib
import json
import random

import pytest

from curation.pool.assemble import escaped_json
from curation.pool.ingest import build_pool
from curation.pool.read import Pool

TEXTS = [
    "a red dog",
    "two  spaces\tand a tab\nand a line",
    'quotes " and \\ back / slash',
    "grüß dich ☃ 🙂",
    "\u2028 separators \u00a0 of lines \x85 and words \u3000",
    "\x07 bell and \x7f delete \x1f",
    "<b>&amp;</b>",
]


def bitmap(shade):
    """A BMP file of one pixel, written by hand: no encoder decides its bytes."""
    head = b"BM" + (58).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
    sizes = (40).to_bytes(4, "little") + (1).to_bytes(4, "little") * 2 + b"\1\0\x18\0"
    return head + sizes + bytes(24) + bytes([shade, shade, shade, 0])


def plain_records(count=300):
    """Records as LLaVA has them, with repeated, missing and numeric ids, and a few unusable ones."""
    rng = random.Random(7)
    records = []
    for i in range(count):
        images = [] if i % 5 == 4 else [f"{'coco/' if i % 3 else ''}{k}.bmp" for k in range(1 + (i % 7 == 6))]
        turns = []
        for turn in range(1 + i % 3):
            question = " ".join(["<image>"] * (len(images) if turn == 0 else 0) + [rng.choice(TEXTS)])
            turns += [{"from": "human", "value": question}]
            turns += [{"from": "gpt", "value": rng.choice(TEXTS) + " " + str(rng.randrange(9))}]
        record = {"id": i if i % 11 == 3 else f"s{i // 2 if i % 13 == 1 else i}", "conversations": turns}
        if i % 17 == 5:
            del record["id"]
        if images:
            record["image"] = images if len(images) > 1 else images[0]
        records.append(record | ({"model": ""} if i % 4 == 1 else {}))
    records[20]["conversations"][1]["value"] = ""
    records[31]["image"] = "absent.bmp"
    return [*records, records[4], {"conversations": records[4]["conversations"]}]


def digest(column):
    return hashlib.sha256("\n".join(column.to_pylist()).encode()).hexdigest()[:16]


@pytest.mark.parametrize("layout", ["list", "unicode", "lines"])
def test_a_plain_file_keeps_its_hash_ids_and_content_hashes(tmp_path, layout):
    records = plain_records()
    (tmp_path / "coco").mkdir()
    for k in range(2):
        for folder in (tmp_path, tmp_path / "coco"):
            (folder / f"{k}.bmp").write_bytes(bitmap(80 * k))
    text = {
        "list": json.dumps(records),
        "unicode": json.dumps(records, ensure_ascii=False, indent=2),
        "lines": "\n".join(json.dumps(record) for record in records),
    }[layout]
    (tmp_path / "data.json").write_text(text)
    info = build_pool(tmp_path / "data.json", tmp_path, tmp_path / "pool", max_bad_fraction=0.1)
    table = Pool.open(tmp_path / "pool").table
    assert info["quarantined"] == {"duplicate_record": 1, "empty_answer": 1, "image_missing": 1}
    assert (info["n"], info["ids"]) == (299, {"missing": 19, "repeated": 32})
    assert info["text_tokens"]["total"] == 6297
    assert info["hash"] == "dc9bdcececa93fdefa4e63399ebc353fd7f8bb893acc32db0434fda90382742e"
    assert [digest(table[name]) for name in ("id", "source", "content_hash")] == [
        "b1288102f51b5dc6",
        "9a82dc0d1feaf34c",
        "3bfcd1299682f5d2",
    ]


def test_the_mini_world_keeps_its_ids_and_content_hashes(tmp_path):
    from curation.mini.pool import build_source

    build_source(tmp_path / "source", 400, 0)
    build_pool(
        tmp_path / "source" / "pool.json", tmp_path / "source", tmp_path / "pool", max_bad_fraction=1.0
    )
    table = Pool.open(tmp_path / "pool").table
    assert [digest(table[name]) for name in ("id", "source", "content_hash")] == [
        "da893bc92a70407b",
        "99ee03bc7171b85a",
        "b32c1bdc13d0575b",
    ]


def test_texts_are_hashed_as_the_standard_library_writes_them():
    texts = [*map(chr, range(0x250)), '"', "\\", "/", "\u2028", "\U0001f642", "plain"]
    for listed in ([], ["plain"], *([text, "x"] for text in texts), texts):
        assert escaped_json(listed) == json.dumps(listed, separators=(",", ":")).encode()
