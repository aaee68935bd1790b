"""Each kind of unusable record: quarantined with its reason, counted, and the run stops when there are too many."""

import io
import json

import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageFile

from curation.pool.__main__ import main
from curation.pool.errors import BrokenJson, PoolError, TooManyBad
from curation.pool.images import image_bytes
from curation.pool.ingest import build_pool
from curation.pool.read import Pool
from curation.pool.record import REASONS, BadRecord


def human(text="what is it ?"):
    return {"from": "human", "value": text}


def gpt(text="a dog"):
    return {"from": "gpt", "value": text}


def good(i):
    return {
        "id": f"good{i}",
        "image": "fine.png",
        "conversations": [human("<image>\nwhat ?"), gpt(f"answer {i}")],
    }


def encoded(kind, size=(32, 32)):
    buffer = io.BytesIO()
    noise = Image.effect_noise(size, 80).convert("RGB")
    noise.save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "fine.png").write_bytes(encoded("PNG"))
    (folder / "fine.jpg").write_bytes(encoded("JPEG"))
    (folder / "fine.webp").write_bytes(encoded("WEBP"))
    (folder / "fine.gif").write_bytes(encoded("GIF"))
    (folder / "fine.bmp").write_bytes(encoded("BMP"))
    (folder / "tail.jpg").write_bytes(encoded("JPEG") + b"camera data" * 100)
    (folder / "tail.png").write_bytes(encoded("PNG") + b"\0" * 5000)
    for kind in ("png", "jpg", "webp", "gif", "bmp"):
        data = (folder / f"fine.{kind}").read_bytes()
        (folder / f"cut.{kind}").write_bytes(data[: len(data) * 2 // 3])
        (folder / f"head.{kind}").write_bytes(data[:9])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("<html>404 not found</html>")
    (folder / "folder.png").mkdir()
    return folder


def build(tmp_path, images, records, **options):
    """The pool of `records` among 100 good ones, and its quarantine as dicts."""
    source = tmp_path / "pool.json"
    source.write_text(json.dumps([good(i) for i in range(50)] + records + [good(i) for i in range(50, 100)]))
    summary = build_pool(source, images, tmp_path / "pool", **{"max_bad_fraction": 0.5} | options)
    return summary, pq.read_table(tmp_path / "pool" / "quarantine.parquet").to_pylist()


def with_image(path):
    return {"id": "x", "image": path, "conversations": [human("<image>\nwhat ?"), gpt()]}


def talk(*turns, **extra):
    return {"id": "x", "conversations": list(turns)} | extra


BAD = {
    "not_an_object": ["text", 12, None, [human(), gpt()]],
    "bad_conversations": [
        {"id": "x"},
        talk(),
        {"id": "x", "conversations": "hi"},
        talk(human(), {"from": "gpt"}),
        talk(human(), {"from": "gpt", "value": None}),
        talk(human(), "hello"),
        talk(human(), {"value": "no speaker"}),
    ],
    "odd_roles": [
        talk({"from": "system", "value": "be kind"}, human(), gpt()),
        talk(human(), gpt(), gpt()),
        talk(human(), human(), gpt()),
        talk(human(), {"from": "bard", "value": "hi"}),
    ],
    "no_assistant_turn": [talk(human()), talk(gpt()), talk(gpt(), human())],
    "empty_answer": [
        talk(human(), gpt("")),
        talk(human(), gpt("  \n")),
        talk(human(), gpt(), human(), gpt("")),
    ],
    "placeholder_in_answer": [talk(human("<image>"), gpt("<image>"), image="fine.png")],
    "image_count_mismatch": [
        talk(human("<image>"), gpt()),
        talk(human(), gpt(), image="fine.png"),
        talk(human("<image><image>"), gpt(), image="fine.png"),
        talk(human("<image>"), gpt(), image=["fine.png", "fine.jpg"]),
    ],
    "bad_image_field": [
        talk(human("<image>"), gpt(), image=3),
        talk(human("<image>"), gpt(), image=[None]),
        talk(human("<image>"), gpt(), image=""),
        talk(human("<video>"), gpt(), video="v.mp4"),
    ],
    "bad_unicode": [talk(human("\ud83d"), gpt()), talk(human(), gpt("half \udc00"))],
    "image_missing": [
        with_image("absent.png"),
        with_image("folder.png"),
        with_image("fine.png/x.png"),
        with_image("a\0b"),
    ],
    "image_empty": [with_image("empty.png")],
    "image_broken": [with_image(f"head.{kind}") for kind in ("png", "jpg", "webp", "gif", "bmp")]
    + [with_image("text.png")],
    "image_truncated": [with_image(f"cut.{kind}") for kind in ("png", "jpg", "gif", "bmp")],
}


@pytest.mark.parametrize("reason", BAD)
def test_each_kind_is_quarantined_with_its_reason(tmp_path, images, reason):
    summary, quarantine = build(tmp_path, images, BAD[reason])
    assert [(q["index"], q["reason"]) for q in quarantine] == [
        (50 + i, reason) for i in range(len(BAD[reason]))
    ]
    assert summary["quarantined"] == {reason: len(BAD[reason])}
    assert (summary["n"], summary["records"]) == (100, 100 + len(BAD[reason]))
    assert all(q["detail"] for q in quarantine)
    data = (tmp_path / "pool.json").read_bytes()
    assert [json.loads(data[q["byte_offset"] :][: q["byte_length"]]) for q in quarantine] == BAD[reason]
    pool = Pool.open(tmp_path / "pool")
    assert [sample.turns[0].answer for sample in pool.samples()] == [f"answer {i}" for i in range(100)]


def test_every_reason_is_explained_and_tested():
    here = set(BAD) | {"duplicate_record", "duplicate_id", "broken_json"}
    assert here == set(REASONS)


def test_cut_webp_is_not_taken_for_whole(tmp_path, images):
    _, quarantine = build(tmp_path, images, [with_image("cut.webp")])
    assert [q["reason"] for q in quarantine] in (["image_broken"], ["image_truncated"])


@pytest.mark.parametrize("name", ["fine.jpg", "fine.webp", "fine.gif", "fine.bmp", "tail.jpg", "tail.png"])
def test_whole_images_of_every_format_are_accepted(tmp_path, images, name):
    summary, quarantine = build(tmp_path, images, [with_image(name)])
    assert not quarantine and summary["n"] == 101


def test_repeated_ids_get_the_hash_of_their_content_whatever_the_order(tmp_path, images):
    twice = [talk(human(), gpt("one")), talk(human(), gpt("two"))]
    summary, quarantine = build(tmp_path, images, twice)
    first = {s.turns[0].answer: s.id for s in Pool.open(tmp_path / "pool").samples()}
    assert not quarantine and summary["ids"] == {"missing": 0, "repeated": 2}
    assert "x" not in first.values() and len(set(first.values())) == 102
    build(tmp_path, images, twice[::-1])
    assert {s.turns[0].answer: s.id for s in Pool.open(tmp_path / "pool").samples()} == first


def test_missing_ids_are_hashed_and_numbers_are_ids(tmp_path, images):
    records = [
        talk(human(), gpt(f"t{i}")) | {"id": name}
        for i, name in enumerate([None, "", "  ", 7, 0, True, 1.5, {}])
    ]
    summary, _ = build(tmp_path, images, records + [{"conversations": [human(), gpt("none")]}])
    ids = Pool.open(tmp_path / "pool").table["id"].to_pylist()
    assert summary["ids"] == {"missing": 7, "repeated": 0}
    assert {"7", "0"} <= set(ids) and len(set(ids)) == len(ids)
    assert ids[50] == Pool.open(tmp_path / "pool").table["content_hash"][50].as_py()


def test_identical_records_are_quarantined_once(tmp_path, images):
    same = talk(human(), gpt("same"))
    nameless = {"conversations": [human(), gpt("same")]}
    summary, quarantine = build(
        tmp_path, images, [same, same, nameless, nameless, talk(human(), gpt("same")) | {"id": "y"}]
    )
    assert [(q["index"], q["reason"]) for q in quarantine] == [
        (51, "duplicate_record"),
        (53, "duplicate_record"),
    ]
    ids = Pool.open(tmp_path / "pool").table["id"].to_pylist()
    assert ids[50] == "x" and ids[52] == "y" and len(ids[51]) == 32
    assert summary["n"] == 103


def test_an_id_that_is_the_hash_of_another_record(tmp_path, images):
    build(tmp_path, images, [{"conversations": [human(), gpt("same")]}])
    taken = Pool.open(tmp_path / "pool").table["id"][50].as_py()
    _, quarantine = build(
        tmp_path,
        images,
        [
            {"conversations": [human(), gpt("same")]},
            talk(human(), gpt("other")) | {"id": taken},
            talk(human(), gpt("same")) | {"id": taken},
        ],
    )
    assert sorted(q["reason"] for q in quarantine) == ["duplicate_record"]
    _, quarantine = build(
        tmp_path,
        images,
        [{"conversations": [human(), gpt("same")]}, talk(human(), gpt("other")) | {"id": taken}],
    )
    assert [(q["index"], q["reason"]) for q in quarantine] == [(51, "duplicate_id")]


def test_leading_answer_and_trailing_question_are_skipped_and_counted(tmp_path, images):
    records = [
        talk(gpt("hello"), human("q"), gpt("a")),
        talk(human("q"), gpt("b"), human("and ?")) | {"id": "y"},
    ]
    summary, quarantine = build(tmp_path, images, records)
    pool = Pool.open(tmp_path / "pool")
    assert not quarantine
    assert [[(t.question, t.answer) for t in pool[row].turns] for row in (50, 51)] == [
        [("q", "a")],
        [("q", "b")],
    ]
    assert summary["skipped_turns"] == {"answer_before_question": 1, "question_without_answer": 1}


def test_too_many_bad_records_stop_the_build_but_leave_the_quarantine(tmp_path, images):
    bad = [with_image("absent.png")] * 3
    for i, record in enumerate(bad := [dict(r) for r in bad]):
        record["id"] = f"bad{i}"
    with pytest.raises(
        TooManyBad, match=r"3 of 103 records.*image_missing 3.*record 50.*absent.png.*raise max"
    ) as error:
        build(tmp_path, images, bad, max_bad_fraction=0.02)
    assert error.value.counts == {"image_missing": 3}
    assert pq.read_table(tmp_path / "pool" / "quarantine.parquet").num_rows == 3
    with pytest.raises(PoolError, match="no finished pool"):
        Pool.open(tmp_path / "pool")
    assert build(tmp_path, images, bad, max_bad_fraction=0.03)[0]["n"] == 100


def test_a_wrong_image_folder_is_noticed_early(tmp_path, images):
    source = tmp_path / "many.json"
    source.write_text(json.dumps([good(i) | {"image": "absent.png"} for i in range(9000)]))
    with pytest.raises(TooManyBad) as error:
        build_pool(source, images, tmp_path / "pool")
    assert error.value.counts["image_missing"] < 9000


def test_a_failed_rebuild_does_not_leave_the_old_pool_as_if_complete(tmp_path, images):
    build(tmp_path, images, [])
    (tmp_path / "pool.json").write_text('[{"id": 1')
    with pytest.raises(BrokenJson, match="truncated"):
        build_pool(tmp_path / "pool.json", images, tmp_path / "pool")
    with pytest.raises(PoolError, match="no finished pool"):
        Pool.open(tmp_path / "pool")


def test_broken_line_of_json_lines_is_quarantined(tmp_path, images):
    source = tmp_path / "pool.jsonl"
    lines = [json.dumps(good(i)) for i in range(100)]
    lines[40] = lines[40][:-9]
    source.write_text("\n".join(lines) + "\n")
    assert build_pool(source, images, tmp_path / "pool")["quarantined"] == {"broken_json": 1}


def test_no_usable_record_and_no_record(tmp_path, images):
    (tmp_path / "one.json").write_text("[3]")
    with pytest.raises(PoolError, match="none of the 1 records is usable"):
        build_pool(tmp_path / "one.json", images, tmp_path / "pool", max_bad_fraction=1.0)
    (tmp_path / "one.json").write_text("[]")
    with pytest.raises(PoolError, match="no records"):
        build_pool(tmp_path / "one.json", images, tmp_path / "pool")


def test_missing_paths_are_named(tmp_path, images):
    with pytest.raises(PoolError, match="pool file .*absent.json is not there"):
        build_pool(tmp_path / "absent.json", images, tmp_path / "pool")
    (tmp_path / "one.json").write_text("[]")
    with pytest.raises(PoolError, match="image folder .*nowhere is not there"):
        build_pool(tmp_path / "one.json", tmp_path / "nowhere", tmp_path / "pool")


def test_command_line_says_what_is_wrong_without_a_traceback(tmp_path, images, capsys):
    source = tmp_path / "pool.json"
    source.write_text('[{"id": "a"')
    assert main(["build", str(source), "--images", str(images), "--out", str(tmp_path / "pool")]) == 1
    captured = capsys.readouterr()
    assert (
        captured.err.startswith("error: ") and "truncated" in captured.err and captured.err.count("\n") == 1
    )


def test_a_truncated_image_is_refused_although_a_package_made_pil_lenient(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    Image.effect_noise((80, 80), 40).save(tmp_path / "cut.png")
    data = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(BadRecord) as caught:
        image_bytes(str(tmp_path / "cut.png"))
    assert caught.value.reason == "image_truncated" and ImageFile.LOAD_TRUNCATED_IMAGES
