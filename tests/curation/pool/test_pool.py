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
