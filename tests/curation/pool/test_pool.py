"""A pool from build to sample: columns, hash, tokens, moving, forking, export."""

import json
import multiprocessing
import pickle
import shutil

import pytest
from PIL import Image

from curation.export import export_llava
from curation.pool.__main__ import main
from curation.pool.errors import PoolError
from curation.pool.ingest import POOL_SCHEMA, build_pool
from curation.pool.read import Pool
from curation.pool.sample import Turn

RECORDS = [
    {
        "id": "a",
        "image": "coco/one.png",
        "conversations": [
            {"from": "human", "value": "<image>\nwhat is it ?"},
            {"from": "gpt", "value": "a  red dog"},
            {"from": "human", "value": "sure ?"},
            {"from": "gpt", "value": "yes"},
        ],
    },
    {
        "id": 17,
        "source": "chat",
        "model": "",
        "conversations": [{"from": "user", "value": "grüß dich ☃"}, {"from": "assistant", "value": "hallo"}],
    },
    {
        "id": "c",
        "image": ["coco/one.png", "two.png"],
        "data_source": "pairs",
        "conversations": [
            {"from": "human", "value": "<image> or <image> ?"},
            {"from": "gpt", "value": "the first"},
        ],
    },
    {
        "id": "d",
        "image": "two.png",
        "conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "a cat"}],
    },
    {"id": "e", "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]},
]


@pytest.fixture
def data(tmp_path):
    (tmp_path / "images" / "coco").mkdir(parents=True)
    Image.new("RGB", (20, 10), "red").save(tmp_path / "images" / "coco" / "one.png")
    Image.new("RGB", (10, 10), "blue").save(tmp_path / "images" / "two.png")
    (tmp_path / "data.json").write_text(json.dumps(RECORDS, ensure_ascii=False, indent=1))
    return tmp_path


@pytest.fixture
def pool(data):
    build_pool(data / "data.json", data / "images", data / "pool", image_tokens=17)
    return Pool.open(data / "pool")


def test_columns(pool, data):
    table = pool.table
    assert table.schema.equals(POOL_SCHEMA) and len(pool) == 5
    columns = {name: table[name].to_pylist() for name in table.column_names}
    assert columns["row"] == [0, 1, 2, 3, 4]
    assert columns["id"] == ["a", "17", "c", "d", "e"]
    assert columns["source"] == ["coco", "chat", "pairs", "unknown", "text_only"]
    assert columns["n_images"] == [1, 0, 2, 1, 0]
    assert columns["n_turns"] == [2, 1, 1, 1, 1]
    assert columns["text_tokens"] == [10, 4, 4, 2, 2]  # words, placeholders left out
    assert columns["image_tokens"] == [17, 0, 34, 17, 0]
    sizes = [(data / "images" / name).stat().st_size for name in ("coco/one.png", "two.png")]
    assert columns["image_bytes"] == [sizes[0], 0, sum(sizes), sizes[1], 0]
    assert pool.info["text_tokens"] == {"unit": "words", "total": 22}


def test_samples(pool, data):
    first = pool[0]
    assert (first.row, first.id, first.source) == (0, "a", "coco")
    assert first.turns == (Turn("<image>\nwhat is it ?", "a  red dog"), Turn("sure ?", "yes"))
    assert [path.resolve() for path in pool[2].images] == [
        (data / "images" / name).resolve() for name in ("coco/one.png", "two.png")
    ]
    assert [sample.id for sample in pool.samples([3, 1, 3])] == ["d", "17", "d"]
    assert [json.loads(pool.raw(row)) for row in range(5)] == RECORDS
    for row in (5, -1):
        with pytest.raises(IndexError, match=f"row {row} of a pool with 5 rows"):
            pool[row]


def test_image_tokens_are_null_when_unknown_and_limit_reads_the_first(data):
    summary = build_pool(data / "data.json", data / "images", data / "pool", limit=2)
    assert summary["n"] == 2
    assert Pool.open(data / "pool").table["image_tokens"].to_pylist() == [None, None]


def test_the_hash_depends_on_the_samples_only(data):
    def build(name="data.json", **options):
        return build_pool(data / name, data / "images", data / "pool", **options)["hash"]

    first = build()
    assert build() == first and build(image_tokens=3) == first
    lines = "\n".join(json.dumps(record) for record in RECORDS)
    (data / "lines.jsonl").write_text(lines)
    assert build("lines.jsonl") == first
    (data / "other.json").write_text(json.dumps(RECORDS[::-1]))
    assert build("other.json") != first
    (data / "other.json").write_text(json.dumps(RECORDS).replace("a cat", "a cow"))
    assert build("other.json") != first
    (data / "other.json").write_text(json.dumps(RECORDS).replace('"chat"', '"talk"'))
    assert build("other.json") != first
    Image.new("RGB", (64, 64), "green").save(data / "images" / "two.png", compress_level=0)
    assert build() != first


def test_two_builds_write_the_same_bytes(data):
    for name in ("one", "two"):
        build_pool(data / "data.json", data / "images", data / name)
    for file in ("pool.parquet", "quarantine.parquet", "pool.json"):
        assert (data / "one" / file).read_bytes() == (data / "two" / file).read_bytes()


def test_tokens_are_counted_by_a_tokenizer(data):
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {character: i for i, character in enumerate("?abcdefghijklmnopqrstuvwxyzgßü☃")}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(2)
    tokenizer.save(str(data / "tokenizer.json"))
    summary = build_pool(data / "data.json", data / "images", data / "pool", tokenizer=data)
    assert (
        summary["text_tokens"]["unit"] == "tokens" and len(summary["text_tokens"]["tokenizer_sha256"]) == 64
    )
    letters = [
        sum(len("".join(turn["value"].replace("<image>", "").split())) for turn in record["conversations"])
        for record in RECORDS
    ]
    assert Pool.open(data / "pool").table["text_tokens"].to_pylist() == letters


def test_a_pool_survives_moving_with_its_data_and_alone(pool, data):
    shutil.copytree(data / "pool", data / "elsewhere" / "deep" / "pool")
    assert Pool.open(data / "elsewhere" / "deep" / "pool")[0] == pool[0]
    together = data.with_name(data.name + "_moved")
    shutil.move(data, together)
    assert [path.exists() for path in Pool.open(together / "pool")[0].images] == [True]


def test_a_changed_or_missing_source_is_refused(pool, data):
    (data / "data.json").write_text(json.dumps(RECORDS))
    with pytest.raises(PoolError, match="build the pool again"):
        Pool.open(data / "pool")
    (data / "data.json").unlink()
    with pytest.raises(PoolError, match=r"source file .* does not exist"):
        Pool.open(data / "pool")


def _ids(pool):
    return [sample.id for sample in pool.samples()]


def test_a_pool_can_be_pickled_and_read_from_forked_processes(pool):
    expected = _ids(pool)
    assert _ids(pickle.loads(pickle.dumps(pool))) == expected
    with multiprocessing.get_context("fork").Pool(2) as workers:
        assert workers.map(_ids, [pool] * 4) == [expected] * 4


def test_export_keeps_every_byte_of_the_records(pool, data):
    assert export_llava(pool, [2, 0], data / "out" / "subset.json") == 2
    written = (data / "out" / "subset.json").read_bytes()
    assert written == b"[\n" + pool.raw(2) + b",\n" + pool.raw(0) + b"\n]\n"
    assert json.loads(written) == [RECORDS[2], RECORDS[0]]
    build_pool(data / "out" / "subset.json", data / "images", data / "again")
    assert [s.turns for s in Pool.open(data / "again").samples()] == [pool[2].turns, pool[0].turns]


def test_export_of_nothing_is_a_list_and_a_wrong_row_leaves_no_file(pool, data):
    export_llava(pool, [], data / "none.json")
    assert json.loads((data / "none.json").read_text()) == []
    with pytest.raises(IndexError):
        export_llava(pool, [0, 9], data / "wrong.json")
    assert not (data / "wrong.json").exists()


def test_command_line_builds_and_shows(data, capsys):
    out = str(data / "pool")
    assert main(["build", str(data / "data.json"), "--images", str(data / "images"), "--out", out]) == 0
    assert "5 samples of 5 records" in capsys.readouterr().out
    assert main(["info", out]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 5


def test_bytes_that_changed_since_the_build_are_never_read_as_the_record(pool, data):
    source = data / "data.json"
    before = source.read_bytes()
    source.write_bytes(before.replace(b"a cat", b"a cow"))
    assert pool.raw(0) == Pool.open(data / "pool").raw(0)
    for read in (pool.raw, pool.__getitem__):
        with pytest.raises(PoolError, match=r"data.json changed .* row 3, \d+ bytes .* build the pool again"):
            read(3)


def build_command(data, records, *options):
    (data / "other.json").write_text(json.dumps(records))
    arguments = ["build", data / "other.json", "--images", data / "images", "--out", data / "out", *options]
    return main([str(argument) for argument in arguments])


def test_what_a_user_should_know_is_printed_and_kept(data, capsys):
    talk = RECORDS[4]["conversations"]
    records = [
        RECORDS[0] | {"dataset": "\x1b[31mred", "model": "m"},
        {"id": "x", "model": "m", "conversations": talk},
        {"id": "y", "model": "m", "conversations": talk},
        {"id": "z", "conversations": [talk[0], {"from": "gpt", "value": "so <|im_end|> it is"}]},
    ]
    assert build_command(data, records) == 0
    printed = capsys.readouterr().out
    assert "keys that were not read: model 3, dataset 1" in printed
    assert "control tokens in texts: 1 (kept, and encoded as plain text)" in printed
    assert "repeat another's content under another id: 1" in printed
    info = Pool.open(data / "out").info
    assert info["unknown_keys"] == {"model": 3, "dataset": 1}
    assert (info["control_tokens"], info["repeated_content"]) == (1, 1)
    assert build_command(data, records, "--source-key", "dataset") == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and "\\x1b[31mred 1" in printed
    assert Pool.open(data / "out").table["source"].to_pylist()[0] == "\x1b[31mred"


def test_control_tokens_are_those_of_the_tokenizer_and_count_as_letters(data, capsys):
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["~eot~", "<image>"])
    tokenizer.add_tokens(["dog"])
    tokenizer.save(str(data / "tokenizer.json"))
    asked, said = {"from": "human", "value": "what ?"}, {"from": "gpt", "value": "a dog ~eot~"}
    records = [{"id": "x", "conversations": [asked, said]}]
    records.append({"id": "y", "conversations": [asked, {"from": "gpt", "value": "~eot~"}]})
    arguments = ("--tokenizer", str(data / "tokenizer.json"), "--max-bad-fraction", "0.5")
    assert build_command(data, records, *arguments) == 0
    assert "control tokens in texts: 1 (kept, and encoded as plain text)" in capsys.readouterr().out
    pool = Pool.open(data / "out")
    assert pool.info["control_tokens"] == 1 and pool.info["quarantined"] == {"empty_answer": 1}
    assert pool.table["text_tokens"].to_pylist() == [7]  # what ? a dog ~ eot ~
    assert build_command(data, records) == 0 and Pool.open(data / "out").info["control_tokens"] == 0


def test_unknown_sources_are_said(data, capsys):
    records = [RECORDS[3] | {"id": str(i), "kind": f"k{i % 2}"} for i in range(3)]
    assert build_command(data, records) == 0
    assert "all sources are unknown" in capsys.readouterr().out
    assert build_command(data, records, "--source-key", "kind") == 0
    assert "sources: k0 2, k1 1" in capsys.readouterr().out
    assert build_command(data, [RECORDS[0] | {"image": "./coco/one.png"}], "--source-depth", "2") == 0
    assert "sources: coco 1" in capsys.readouterr().out


def test_the_image_key_is_used_wherever_the_pool_is_read(data):
    record = {key: value for key, value in RECORDS[0].items() if key != "image"}
    assert build_command(data, [record | {"picture": "coco/one.png"}], "--image-key", "picture") == 0
    pool = Pool.open(data / "out")
    assert [path.name for path in pool[0].images] == ["one.png"] and pool.table["n_images"].to_pylist() == [1]
    assert pool.image_table["path"].to_pylist() == ["coco/one.png"]
    assert pool.table["image_ids"].to_pylist() == [[0]]


def test_image_ids_lead_to_images_in_the_order_of_placeholders(pool):
    paths = pool.image_table["path"].to_pylist()
    named = [[paths[i] for i in ids] for ids in pool.table["image_ids"].to_pylist()]
    given = [record.get("image", []) for record in RECORDS]
    assert named == [[one] if isinstance(one, str) else one for one in given]
    assert pool.info["audit"]["level"] == "header" and pool.info["audit"]["images"] == 2


def test_a_full_audit_counts_equal_files_and_writes_its_page(data, capsys):
    shutil.copy(data / "images" / "two.png", data / "images" / "three.png")
    records = [RECORDS[3], RECORDS[3] | {"id": "again", "image": "three.png"}]
    assert build_command(data, records, "--audit", "full", "--workers", "0") == 0
    assert "equal files under other paths: 1" in capsys.readouterr().out
    assert (data / "out" / "audit.md").is_file() and Pool.open(data / "out").info["audit"]["level"] == "full"


def test_images_outside_and_too_large_images_are_refused_unless_allowed(data):
    Image.new("RGB", (9, 9)).save(data / "far.png")
    records = [RECORDS[3] | {"image": "../far.png"}, *RECORDS[3:5]]
    options = ("--max-bad-fraction", "0.7")
    assert build_command(data, records, *options) == 0
    assert Pool.open(data / "out").info["quarantined"] == {"image_outside": 1}
    assert build_command(data, records, *options, "--allow-outside") == 0
    assert Pool.open(data / "out").info["quarantined"] == {}
    assert build_command(data, records, *options, "--max-pixels", "99") == 0
    assert "image_too_large" in Pool.open(data / "out").info["quarantined"]


def test_a_pool_inside_an_input_folder_is_refused(data, capsys):
    assert main(["build", str(data), "--out", str(data / "inside" / "pool")]) == 2
    assert "lies in the input folder" in capsys.readouterr().err


def test_inputs_of_several_folders_need_an_image_folder(data, capsys):
    (data / "deep").mkdir()
    shutil.copy(data / "data.json", data / "deep" / "data.json")
    given = [str(data / "data.json"), str(data / "deep" / "data.json")]
    assert main(["build", *given, "--out", str(data / "pool")]) == 2
    assert "--images" in capsys.readouterr().err


def test_progress_is_silent_at_first_and_then_says_speed_and_time_left(capsys):
    from curation.pool.report import Step

    times = iter((0.0, 0.5, 5.0, 11.0, 21.0))
    step = Step("read", "B", clock=lambda: next(times))
    for done in (0, 10, 40, 11_000_000, 50_000_000):
        step(done, 100_000_000)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "read: 11% of 100 MB, 1.0 MB/s, 89 s left" and len(lines) == 2
    assert "left" in lines[1]
    quick = Step("read", "B", clock=lambda: 0.3)
    quick(0, 5)
    quick(5, 5)
    assert capsys.readouterr().err == ""


def test_a_system_turn_is_the_samples_system_prompt(tmp_path):
    talk = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]
    led = [talk[1], *talk]  # an answer before the first question
    records = [
        {"id": "with", "conversations": [{"from": "system", "value": "be very kind"}, *talk]},
        {"id": "without", "conversations": talk},
        {"id": "blank", "conversations": [{"from": "system", "value": " "}, *talk]},
        {"id": "led", "conversations": [{"from": "system", "value": "be kind"}, *led]},
    ]
    (tmp_path / "data.json").write_text(json.dumps(records))
    summary = build_pool(tmp_path / "data.json", tmp_path, tmp_path / "pool")
    pool = Pool.open(tmp_path / "pool")
    assert [sample.system for sample in pool.samples()] == ["be very kind", None, None, "be kind"]
    assert all(sample.turns == (Turn("hi", "hello"),) for sample in pool.samples())
    assert pool.table["text_tokens"].to_pylist() == [5, 2, 2, 4]
    assert len(set(pool.table["content_hash"].to_pylist())) == 4
    assert summary["skipped_turns"] == {"answer_before_question": 1, "question_without_answer": 0}
