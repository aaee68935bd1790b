"""LLaVA lists and lines, LLaMA-Factory, ms-swift and ids: read back, and held against what they document."""

import json

import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from export_world import CHOSEN, RECORDS, choose

from curation.pool.ingest import build_pool
from curation.pool.read import Pool

EXPECTED = [RECORDS[row] for row in CHOSEN]


def raw(world, row):
    """The bytes of a record in the source file."""
    return (world / "source" / "data.json").read_bytes()[2:-3].split(b",\n")[row]


def test_a_llava_list_is_byte_for_byte_in_rank_order(world, export):
    expected = b",\n".join(raw(world, row) for row in CHOSEN)
    assert export("chosen.json").read_bytes() == b"[\n" + expected + b"\n]\n"


@pytest.mark.parametrize(("name", "arguments"), [("a.jsonl", []), ("a.txt", ["--format", "jsonl"])])
def test_json_lines_are_the_same_records_one_a_line(world, export, name, arguments):
    expected = b"\n".join(raw(world, row) for row in CHOSEN)
    assert export(name, *arguments).read_bytes() == expected + b"\n"


def test_a_record_over_several_lines_is_one_line_of_json_lines(world, export):
    (world / "pretty.json").write_text(json.dumps(RECORDS, indent=1).replace("\n", "\r\n"))
    build_pool(world / "pretty.json", world / "source" / "images", world / "pretty")
    choose(world / "pretty", CHOSEN, world / "chosen")
    out = export("a.jsonl", pool="pretty", subset="chosen")
    assert [json.loads(line) for line in out.read_text().splitlines()] == EXPECTED
    assert len(load_dataset("json", data_files=str(out), split="train", cache_dir=str(world))) == len(CHOSEN)


def asked(question, answer, **more):
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}], **more}


MESSAGES = [
    {"role": "system", "content": "short"},
    {"role": "user", "content": "<image>a ?"},
    {"role": "assistant", "content": "b"},
]
OTHERS = [
    {"id": "m", "messages": MESSAGES, "images": ["b.png"], "source": "own"},
    {"query": "<image><image>c ?", "response": "d", "images": ["b.png", "c.webp"]},
    asked("<image>e", "f", id="i", images=["b.png"]),
    asked("g", "h", id="s", system="long"),
]


def test_a_record_in_another_form_is_converted_for_llava_and_counted(world, export, capsys):
    (world / "mixed.json").write_text(json.dumps([*OTHERS, RECORDS[0]]))
    build_pool(world / "mixed.json", world / "source" / "images", world / "mixed")
    choose(world / "mixed", [4, 3, 2, 1, 0], world / "chosen")
    records = json.loads(export("a.json", pool="mixed", subset="chosen").read_text())
    assert "converted from another form: 4" in capsys.readouterr().out
    plain, system, images, query, messages = records
    assert plain == RECORDS[0]
    assert system["conversations"][0] == {"from": "system", "value": "long"} and "image" not in system
    assert images["image"] == "b.png" and images["id"] == "i" and "images" not in images
    assert query["image"] == ["b.png", "c.webp"]
    assert [turn["value"] for turn in query["conversations"]] == ["<image><image>c ?", "d"]
    assert messages["source"] == "own" and [turn["from"] for turn in messages["conversations"]] == [
        "system",
        "human",
        "gpt",
    ]
    build_pool(world / "a.json", world / "source" / "images", world / "again")
    said = [(s.turns, s.system, s.images) for s in Pool.open(world / "again").samples()]
    assert said == [
        (s.turns, s.system, s.images) for s in Pool.open(world / "mixed").samples([4, 3, 2, 1, 0])
    ]


def check_messages(records, world, image_folder):
    """What LLaMA-Factory and ms-swift document: alternating roles, one placeholder for each image."""
    for line, original in zip(records, EXPECTED, strict=True):
        roles = [message["role"] for message in line["messages"]]
        own = {"system": "system", "human": "user", "gpt": "assistant"}
        assert roles == [own[turn["from"]] for turn in original["conversations"]]
        texts = [message["content"] for message in line["messages"]]
        assert texts == [turn["value"] for turn in original["conversations"]]
        assert sum(text.count("<image>") for text in texts) == len(line["images"])
        held = original.get("image", [])
        names = [held] if isinstance(held, str) else held
        assert line["images"] == [str(image_folder / name) for name in names]
        assert all((world / path).is_file() for path in line["images"])
        assert line["id"] == original["id"] and line["source"] == original["source"]


def test_a_folder_for_llamafactory_has_the_entry_that_it_looks_up(world, export):
    out = export("lf", "--format", "llamafactory", "--name", "My set, v1")
    info = json.loads((out / "dataset_info.json").read_text())
    assert list(info) == ["My_set_v1"]  # a comma would separate two data sets
    entry = info["My_set_v1"]
    assert entry["formatting"] == "sharegpt"
    assert entry["columns"] == {"messages": "messages", "images": "images"}
    assert entry["tags"] == {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
        "system_tag": "system",
    }
    records = json.loads((out / entry["file_name"]).read_text())
    check_messages(records, world, world / "source" / "images")
    loaded = load_dataset(
        "json", data_files=str(out / entry["file_name"]), split="train", cache_dir=str(world)
    )
    assert loaded["images"][0] == records[0]["images"]


def test_copies_within_a_llamafactory_folder_are_named_relative_to_it(world, export):
    out = export("lf", "--format", "llamafactory", "--copy-images", world / "lf" / "images")
    records = json.loads((out / "lf.json").read_text())
    assert records[1]["images"] == ["images/deep/a.jpg"]
    for line in records:
        for name in line["images"]:
            own = world / "source" / "images" / name.removeprefix("images/")
            assert (out / name).read_bytes() == own.read_bytes() and not (out / name).samefile(own)
    assert not (out / "images" / "unused").exists() and len(list((out / "images").rglob("*.*"))) == 3


@pytest.mark.parametrize("name", ["swift.jsonl", "swift.json", "swift"])
def test_ms_swift_records_have_messages_and_absolute_image_paths(world, export, name):
    out = export(name, "--format", "swift")
    text = out.read_text()
    records = json.loads(text) if name == "swift.json" else [json.loads(line) for line in text.splitlines()]
    check_messages(records, world, world / "source" / "images")


def test_images_after_much_text_alone_are_a_list_for_ms_swift(world, export, refused, monkeypatch):
    """`datasets` fails on such JSON Lines, since its types are those of the first 10 MB."""
    monkeypatch.setattr("curation.export.swift._TYPED_BYTES", 10)
    choose(world / "pool", [2, 0, 1], world / "chosen")
    assert "ends in .json" in refused("a.jsonl", "--format", "swift", subset="chosen")
    assert len(json.loads(export("a.json", "--format", "swift", subset="chosen").read_text())) == 3
    choose(world / "pool", [0, 2, 1], world / "image_first")
    export("a.jsonl", "--format", "swift", subset="image_first")


def test_image_paths_can_be_relative_to_a_root(world, export, refused):
    out = export("swift.jsonl", "--format", "swift", "--images-root", world)
    first = json.loads(out.read_text().splitlines()[0])
    assert first["images"] == ["source/images/c.webp"]
    line = refused("b.jsonl", "--format", "swift", "--images-root", world / "source" / "images" / "deep")
    assert "is not below --images-root" in line


def test_ids_are_one_a_line(export):
    assert export("ids.txt", "--format", "ids").read_text().split("\n") == [f"s{row}" for row in CHOSEN] + [
        ""
    ]


def test_an_id_with_a_line_break_cannot_be_listed(world, refused):
    (world / "odd.json").write_text(json.dumps([RECORDS[0] | {"id": "a\nb"}]))
    build_pool(world / "odd.json", world / "source" / "images", world / "odd")
    choose(world / "odd", [0], world / "chosen")
    assert "holds a line break" in refused("ids.txt", "--format", "ids", pool="odd", subset="chosen")


def test_the_table_of_rows_joins_record_pool_and_reason(world, export):
    twice = [RECORDS[0] | {"id": "same"}, RECORDS[1] | {"id": "same"}, RECORDS[2] | {"id": 7}]
    (world / "dup.json").write_text(json.dumps(twice))
    build_pool(world / "dup.json", world / "source" / "images", world / "dup")
    choose(world / "dup", [2, 0, 1], world / "chosen")
    out = export("a.json", pool="dup", subset="chosen")
    table = pq.read_table(world / "a.json.rows.parquet").to_pylist()
    assert [line["row"] for line in table] == [2, 0, 1] and [line["rank"] for line in table] == [0, 1, 2]
    assert [line["original_id"] for line in table] == ["7", "same", "same"]
    assert [line["index"] for line in table] == [2, 0, 1]
    assert {line["file"] for line in table} == {"dup.json"}
    assert [line["why"] for line in table] == ["reason 2", "reason 0", "reason 1"]
    pool = Pool.open(world / "dup")
    assert [line["id"] for line in table] == [pool[row].id for row in (2, 0, 1)]
    assert len({line["id"] for line in table}) == 3
    assert len(json.loads(out.read_text())) == len(table)


def test_the_files_of_a_pool_of_several_are_told_apart(world, export):
    for name in ("one", "two"):
        (world / name).mkdir()
        (world / name / "data.json").write_text(json.dumps([RECORDS[0] | {"id": name}]))
    files = [world / name / "data.json" for name in ("one", "two")]
    build_pool(files, world / "source" / "images", world / "both")
    choose(world / "both", [1, 0], world / "chosen")
    records = json.loads(export("a.json", pool="both", subset="chosen").read_text())
    assert [record["id"] for record in records] == ["two", "one"]
    table = pq.read_table(world / "a.json.rows.parquet").to_pylist()
    assert [(line["file"], line["index"]) for line in table] == [("two/data.json", 0), ("one/data.json", 0)]
