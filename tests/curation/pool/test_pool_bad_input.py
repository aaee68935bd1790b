"""Each kind of unusable record is quarantined with its reason and counted; too many stop the build."""

import io
import json
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from curation.pool.__main__ import main
from curation.pool.audit_report import write
from curation.pool.derive import derive
from curation.pool.errors import BrokenJson, PoolError, TooManyBad
from curation.pool.image_check import Check
from curation.pool.images import path_inside
from curation.pool.ingest import Options, build_pool
from curation.pool.read import Pool
from curation.pool.reasons import OF_RECORDS
from curation.pool.record import BadRecord
from curation.pool.stream import read_records


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
        talk(human(), {"from": "system", "value": "be kind"}, human(), gpt()),
        talk({"from": "system", "value": "be kind"}, {"from": "system", "value": "or not"}, human(), gpt()),
        talk(human(), gpt(), gpt()),
        talk(human(), human(), gpt()),
        talk(human(), {"from": "bard", "value": "hi"}),
    ],
    "no_assistant_turn": [
        talk(human()),
        talk(gpt()),
        talk(gpt(), human()),
        talk({"from": "system", "value": "be kind"}),
    ],
    "unknown_media_key": [
        talk(human(), gpt(), picture="fine.png"),
        talk(human() | {"picture": ["fine.png"]}, gpt()),
    ],
    "empty_question": [talk(human(""), gpt()), talk(human("\u200b </s>"), gpt())],
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
        talk({"from": "system", "value": "<image>"}, human("<image>"), gpt(), image="fine.png"),
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
    here = set(BAD) | {"duplicate_record", "duplicate_id", "broken_json", "repeated_key", "image_outside"}
    of_images = {"image_too_large", "image_crash", "unsupported_mode"}
    assert here | of_images == set(OF_RECORDS) | of_images


def test_a_truncated_webp_is_not_accepted(tmp_path, images):
    _, quarantine = build(tmp_path, images, [with_image("cut.webp")])
    assert [q["reason"] for q in quarantine] in (["image_broken"], ["image_truncated"])


@pytest.mark.parametrize("name", ["fine.jpg", "fine.webp", "fine.gif", "fine.bmp", "tail.jpg", "tail.png"])
def test_complete_images_of_every_format_are_accepted(tmp_path, images, name):
    summary, quarantine = build(tmp_path, images, [with_image(name)])
    assert not quarantine and summary["n"] == 101


def test_repeated_ids_become_content_hashes_in_any_order(tmp_path, images):
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
    summary, _ = build(tmp_path, images, [*records, {"conversations": [human(), gpt("none")]}])
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
        TooManyBad, match=r"3 of the 103 records.*image_missing 3.*record 50.*absent.png.*raise max"
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


@pytest.mark.parametrize("layout", ["list", "lines"])
@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("9" * 6000, "4300 digits"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ('{"a]\\"": ' * 100_000 + "1" + "}" * 100_000, "nested too deeply"),
    ],
)
def test_a_record_that_no_reader_can_hold_is_one_quarantined_record(tmp_path, images, layout, value, fault):
    records = [json.dumps(good(i)) for i in range(100)]
    records[40] = '{"id": "a]\\"{", "conversations": ' + value + "}"
    source = tmp_path / "pool.json"
    source.write_text("[" + ", ".join(records) + "]" if layout == "list" else "\n".join(records) + "\n")
    assert build_pool(source, images, tmp_path / "pool")["quarantined"] == {"broken_json": 1}
    small = list(read_records(source, chunk_bytes=64))
    assert [item.index for item in small if item.fault] == [40] and len(small) == 100
    assert fault in small[40].fault
    assert source.read_bytes()[small[40].offset :][: small[40].length].decode() == records[40]


def test_a_bare_integer_of_thousands_of_digits_is_one_record(tmp_path, images):
    (tmp_path / "pool.json").write_text("[1, " + "9" * 6000 + ", " + json.dumps(good(0)) + "]")
    faults = [bool(item.fault) for item in read_records(tmp_path / "pool.json", chunk_bytes=64)]
    assert faults == [False, True, False]


def test_an_image_path_does_not_leave_the_folder(tmp_path, images):
    name = good(0)["image"]
    (tmp_path / "elsewhere").mkdir()
    secret = tmp_path / "elsewhere" / "secret.png"
    secret.write_bytes((images / name).read_bytes())
    (images / "link.png").symlink_to(secret)
    (images / "beside.png").symlink_to(images / name)
    (images / "linked").symlink_to(secret.parent)
    (images / "sub").mkdir()
    outside = [
        "../elsewhere/secret.png",
        str(secret),
        "link.png",
        "x/../../elsewhere/secret.png",
        "linked/../elsewhere/secret.png",
        "/dev/zero",
    ]
    inside = ["beside.png", "linked/secret.png", str(images / name), f"sub/../{name}"]
    for path in outside:
        with pytest.raises(BadRecord, match="--images takes a folder that holds it") as error:
            path_inside(str(images), path)
        assert error.value.reason == "image_outside"
    check = Check(str(images), "header")
    assert all(check(path).size == secret.stat().st_size for path in inside)
    assert path_inside("/", str(secret)) == str(secret)
    assert check("sub/../a\0.png").reason == "image_missing"
    records = [{**good(0), "id": path, "image": path} for path in outside + inside]
    summary, quarantine = build(tmp_path, images, records)
    assert summary["quarantined"]["image_outside"] == len(outside)
    assert [row["id"] for row in quarantine if row["reason"] == "image_outside"] == outside


def test_no_usable_record_and_no_record(tmp_path, images):
    (tmp_path / "one.json").write_text("[3]")
    with pytest.raises(PoolError, match="none of the 1 records is usable"):
        build_pool(tmp_path / "one.json", images, tmp_path / "pool", max_bad_fraction=1.0)
    (tmp_path / "one.json").write_text("[]")
    with pytest.raises(PoolError, match="no records"):
        build_pool(tmp_path / "one.json", images, tmp_path / "pool")


def test_missing_paths_are_named(tmp_path, images):
    with pytest.raises(PoolError, match=r"pool file .*absent.json does not exist"):
        build_pool(tmp_path / "absent.json", images, tmp_path / "pool")
    (tmp_path / "one.json").write_text("[]")
    with pytest.raises(PoolError, match=r"image folder .*nowhere does not exist"):
        build_pool(tmp_path / "one.json", tmp_path / "nowhere", tmp_path / "pool")


def test_unusable_data_are_one_line_and_status_1(tmp_path, images, capsys):
    source = tmp_path / "pool.json"
    source.write_text('[{"id": "a"')
    assert main(["build", str(source), "--images", str(images), "--out", str(tmp_path / "pool")]) == 1
    captured = capsys.readouterr()
    assert (
        captured.err.startswith("error: ") and "truncated" in captured.err and captured.err.count("\n") == 1
    )


def command_error(capsys, *arguments):
    """(exit status, the one line on stderr) of a command that must fail."""
    capsys.readouterr()
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        status = stop.code
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and captured.err.count("\n") == 1
    return status, captured.err


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--limit", "0", "at least 1"),
        ("--limit", "-1", "at least 1"),
        ("--limit", "many", "whole number"),
        ("--image-tokens", "-1", "at least 0"),
        ("--max-bad-fraction", "nan", "from 0 to 1"),
        ("--max-bad-fraction", "-0.1", "from 0 to 1"),
        ("--max-bad-fraction", "1e99", "from 0 to 1"),
        ("--max-bad-fraction", "", "from 0 to 1"),
        ("--images", "", "path is empty"),
        ("--images", "nowhere", "image folder nowhere does not exist"),
        ("--images", "/dev/null", "image folder /dev/null is not a folder"),
        ("--out", "/dev/null", "/dev/null is not a folder"),
        ("--out", "a\0b", "NUL byte"),
        ("--out", "a\udcffb", "not valid UTF-8"),
        ("--out", "x" * 300, "longer than 255 bytes"),
        ("--tokenizer", "/nowhere/tokenizer", "neither a folder with tokenizer.json nor found on the Hub"),
        ("--limits", "3", "unrecognized arguments"),
    ],
)
def test_wrong_options_are_one_line_and_status_2(tmp_path, images, capsys, option, value, message):
    source = tmp_path / "data.json"
    source.write_text(json.dumps([good(0)]))
    options = {"--images": str(images), "--out": str(tmp_path / "pool")} | {option: value}
    words = [word for pair in options.items() for word in ("=".join(pair),)]
    status, error = command_error(capsys, "build", source, *words)
    assert status == 2 and message in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.json", "images"]


def test_wrong_paths_are_one_line_and_status_2(tmp_path, images, capsys):
    source, fifo = tmp_path / "data.json", tmp_path / "pipe"
    source.write_text(json.dumps([good(0)]))
    os.mkfifo(fifo)
    common = ("--images", images, "--out")
    for arguments, message in [
        (("build", tmp_path / "absent.json", *common, tmp_path / "pool"), "absent.json does not exist"),
        (("build", images / "folder.png", *common, tmp_path / "pool"), "holds no records"),
        (("build", fifo, *common, tmp_path / "pool"), "is not a regular file"),
        (("build", "/dev/null", *common, tmp_path / "pool"), "is not a regular file"),
        (("build", source, *common, source), "data.json is not a folder"),
        (("info", source), "it is not a folder"),
        (("info", tmp_path / "absent"), "it is not a folder"),
        (("inform", tmp_path), "invalid choice"),
        ((), "required"),
    ]:
        status, error = command_error(capsys, *arguments)
        assert status == 2 and message in error, error
    assert json.loads(source.read_text()) == [good(0)]


def test_a_pool_never_overwrites_its_own_source(tmp_path, images, capsys):
    source = tmp_path / "pool.json"
    source.write_text(json.dumps([good(0)]))
    (tmp_path / "link").symlink_to(tmp_path)
    for out in (tmp_path, tmp_path / "link"):
        status, error = command_error(capsys, "build", source, "--images", images, "--out", out)
        assert status == 2 and "would overwrite its source" in error
    assert json.loads(source.read_text()) == [good(0)]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("pool.json", "{", "pool.json is not valid JSON"),
        ("pool.json", "[]", "does not describe a pool"),
        ("pool.json", None, "holds no finished pool"),
        ("pool.parquet", "PAR1", "pool.parquet cannot be read"),
        ("pool.parquet", None, "pool.parquet cannot be read"),
    ],
)
def test_damaged_pools_are_one_line_and_status_1(tmp_path, images, capsys, file, content, message):
    build(tmp_path, images, [])
    (tmp_path / "pool" / file).unlink()
    if content:
        (tmp_path / "pool" / file).write_text(content)
    status, error = command_error(capsys, "info", tmp_path / "pool")
    assert status == 1 and message in error


def test_a_pool_with_another_number_of_rows_is_refused(tmp_path, images):
    build(tmp_path, images, [])
    path = tmp_path / "pool" / "pool.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(PoolError, match=r"has 99 rows, but pool.json says 100"):
        Pool.open(tmp_path / "pool")


COMMANDS = (
    "curation.pool",
    "curation.select",
    "curation.compare",
    "curation.export",
    "curation.imports.load",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_quick_and_loads_no_model_library(command):
    code = (
        "import runpy, sys, time\n"
        f"sys.argv = [{command!r}, '--help']\n"
        f"try: runpy.run_module({command!r}, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'PIL', 'duckdb'} & set(sys.modules)), time.process_time())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded, _, seconds = done.stdout.splitlines()[-1].rpartition(" ")
    # The aim is one second on an idle machine; the bound on CPU time leaves room for a busy one.
    assert loaded == "[]" and float(seconds) < 2 and "usage: " in done.stdout


def test_a_bad_record_keeps_the_source_that_it_tells(tmp_path, images):
    (images / "coco").mkdir()
    records = [
        talk(human(), gpt(""), source="chat"),
        talk(human("<image>"), gpt(""), image="vg/a.jpg"),
        talk(human(), gpt(), images=["vg/a.jpg", "vg/b.jpg"]),
        with_image("coco/missing.jpg"),
        with_image("cut.png"),
        talk(human(), gpt(""), image="/elsewhere/a.jpg"),
        talk(human(), gpt("")),
        "no record",
    ]
    _, bad = build(tmp_path, images, records)
    assert [row["source"] for row in bad] == ["chat", "vg", "vg", "coco", "unknown", None, None, None]
    options = Options(source_key="set")
    _, bad = build(tmp_path, images, [talk(human(), gpt(""), source="chat", set="own")], options=options)
    assert [row["source"] for row in bad] == ["own"]
    write(tmp_path / "pool")
    assert "| own | empty_answer | 1 |" in (tmp_path / "pool" / "audit.md").read_text().replace("\\", "")


def test_a_derived_pool_keeps_the_source_of_what_it_drops(tmp_path, images):
    build(tmp_path, images, [talk(human(), gpt(""), source="chat")])
    drop = pa.table({"row": [0], "reason": ["too_long"], "detail": [""]})
    derive(Pool.open(tmp_path / "pool"), drop, tmp_path / "less")
    bad = pq.read_table(tmp_path / "less" / "quarantine.parquet").to_pylist()
    assert [row["source"] for row in bad] == ["unknown", "chat"]
