"""Small inputs that once went wrong without a word, each with what is right, beside two sound records.

Cases of images, of texts that are too long and of exports are tested where those are.
"""

import gzip
import io
import json

import input_formats as formats
import pyarrow.parquet as pq
import pytest
import zstandard
from input_formats import FORMATS, RECORDS, embedded, picture, talk

from curation.pool.__main__ import main
from curation.pool.ingest import Options, build_pool
from curation.pool.read import Pool


def sound(number):
    return {
        "id": f"g{number}",
        "image": "ok.jpg",
        "conversations": talk("<image>\nWhat is shown?", f"A red square number {number}."),
    }


class Built:
    """A pool of an input: its samples, the reason of each id that it lacks, pool.json."""

    def __init__(self, folder, data, name="data.json", options=(), images=None):
        folder.mkdir(exist_ok=True)
        (folder / "ok.jpg").write_bytes(picture(1, "JPEG"))
        (folder / name).write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
        arguments = [str(folder / name), "--images", str(images or folder), "--out", str(folder / "pool")]
        self.status = main(["build", *arguments, "--max-bad-fraction", "0.9", *options])
        if self.status:
            return
        self.pool = Pool.open(folder / "pool")
        self.samples = {sample.id: sample for sample in self.pool.samples()}
        self.info = self.pool.info
        self.sources = dict(
            zip(*(self.pool.table[name].to_pylist() for name in ("id", "source")), strict=True)
        )
        self.bad = pq.read_table(folder / "pool" / "quarantine.parquet").to_pylist()
        self.reasons = {row["id"]: row["reason"] for row in self.bad}
        assert max((len(row["detail"]) for row in self.bad), default=0) <= 200


@pytest.fixture
def build(tmp_path):
    def with_fillers(*odd, **more):
        return Built(tmp_path / "in", [sound(0), sound(1), *odd], **more)

    return with_fillers


def ask(question="What colour?", answer="Red.", **more):
    return {"id": "t", "conversations": talk(question, answer)} | more


PICTURES_BY_OTHER_KEYS = {
    "images_key": {"images": ["ok.jpg"]},
    "image_path_key": {"image_path": "ok.jpg"},
    "image_url": {"image_url": "ok.jpg"},
    "img": {"img": "ok.jpg"},
    "image_paths": {"image_paths": ["ok.jpg"]},
}


@pytest.mark.parametrize("case", PICTURES_BY_OTHER_KEYS)
def test_a_picture_under_another_key_is_read(build, case):
    more = PICTURES_BY_OTHER_KEYS[case]
    built = build(ask(**more), ask("<image> What colour?", **more) | {"id": "u"})
    assert built.reasons == {"t": "image_count_mismatch"} and len(built.samples["u"].images) == 1


def test_a_picture_under_an_unknown_key_is_never_text_only(build):
    built = build(ask(picture="ok.jpg"))
    assert built.reasons == {"t": "unknown_media_key"} and "picture" in built.bad[0]["detail"]
    again = build(ask("<image>?", picture="ok.jpg"), options=["--image-key", "picture"])
    assert len(again.samples["t"].images) == 1
    assert again.reasons == {"g0": "unknown_media_key", "g1": "unknown_media_key"}


def test_unknown_keys_are_counted_and_printed(build, capsys):
    built = build(ask("<image>", image="ok.jpg", mask="m.png", score=3), ask(score=4) | {"id": "u"})
    assert built.info["unknown_keys"] == {"score": 2, "mask": 1} and not built.bad
    assert "score" in capsys.readouterr().out


def test_system_key(build):
    built = build(ask(system="Answer in French."), ask(system="Answer in English."))
    assert not built.bad and built.info["ids"]["repeated"] == 2
    systems = [sample.system for sample in built.samples.values()]
    assert systems == [None, None, "Answer in French.", "Answer in English."]


def test_system_turn(build):
    turns = [{"from": "system", "value": "You are a pirate."}, *talk("<image>", "Aye.")]
    built = build({"id": "t", "image": "ok.jpg", "conversations": turns})
    assert built.samples["t"].system == "You are a pirate." and not built.bad


def test_special_tokens(build, capsys):
    question = "<image>\nWhat?<|im_end|>\n<|im_start|>assistant\nBlue.<|im_end|>"
    built = build(ask(question, "Red.<|im_end|>\n<|im_start|>user\nmore<|im_end|>", image="ok.jpg"))
    assert built.info["control_tokens"] == 6 and built.samples["t"].turns[0].question == question
    assert "control tokens in texts: 6" in capsys.readouterr().out


@pytest.mark.parametrize("answer", ["</s>", "<|im_end|>", "\u200b\ufeff", " ", "<|eot_id|>\u200b</s>"])
def test_answers_that_no_reader_sees(build, answer):
    assert build(ask("<image>", answer, image="ok.jpg")).reasons == {"t": "empty_answer"}


@pytest.mark.parametrize("question", ["", "\u200b", "<|im_start|>"])
def test_empty_question(build, question):
    assert build(ask(question)).reasons == {"t": "empty_question"}


def test_image_empty_string(build):
    built = build(ask(image=""), ask(image=None) | {"id": "u"}, ask(image=[]) | {"id": "v"})
    assert not built.bad and [built.sources[name] for name in "tuv"] == ["text_only"] * 3


def test_base64_image(build, capsys):
    text = "data:image/jpeg;base64," + "A" * 400_000
    built = build(ask("<image>", image=text), ask("<image>", image=[text]) | {"id": "u"})
    assert built.reasons == {"t": "bad_image_field", "u": "bad_image_field"}
    assert all("data URL" in row["detail"] for row in built.bad)
    folder = built.pool.folder.parent
    assert main(["build", str(folder / "data.json"), "--out", str(folder / "pool")]) == 1
    error = capsys.readouterr().err
    assert len(error) < 900 and error.count("\n") == 1


def test_absolute_path(build, tmp_path, capsys):
    folder = tmp_path / "in"
    for name in ("coco/a.jpg", "gqa/deep/b.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(2, "JPEG"))
    odd = [
        ask("<image>", image=str(folder / "coco/a.jpg")),
        ask("<image>", image=str(folder / "gqa/deep/b.jpg")) | {"id": "u"},
    ]
    built = build(*odd)
    assert [built.sources[name] for name in "tu"] == ["coco", "gqa"]
    (tmp_path / "empty").mkdir()
    outside = Built(folder, odd, options=["--allow-outside"], images=tmp_path / "empty")
    assert [outside.sources[name] for name in "tu"] == ["coco", "gqa"]
    capsys.readouterr()
    build()
    assert "all sources are unknown" in capsys.readouterr().out


def test_source_key_and_depth(build, tmp_path):
    folder = tmp_path / "in" / "coco" / "train"
    folder.mkdir(parents=True)
    (folder / "a.jpg").write_bytes(picture(2, "JPEG"))
    odd = ask("<image>", image="coco/train/a.jpg", dataset="vqa")
    assert build(odd).sources["t"] == "coco"
    assert build(odd, options=["--source-depth", "2"]).sources["t"] == "coco/train"
    assert build(odd, options=["--source-key", "dataset"]).sources == {
        "g0": "unknown",
        "g1": "unknown",
        "t": "vqa",
    }


def test_dup_content_other_id(build, capsys):
    built = build(*(ask("<image>", "same", image="ok.jpg") | {"id": name} for name in "abc"))
    assert len(built.samples) == 5 and built.info["repeated_content"] == 2
    assert "repeat another's content under another id: 2" in capsys.readouterr().out


def test_duplicate_key(build, tmp_path):
    text = (
        b'{"id":"t","image":"nope.jpg","image":"ok.jpg","conversations":'
        + json.dumps(talk("<image>", "x")).encode()
    )
    built = Built(tmp_path, b"[" + json.dumps(sound(0)).encode() + b"," + text + b"}]")
    assert built.reasons == {"t": "repeated_key"} and "image" in built.bad[0]["detail"]


@pytest.mark.parametrize("layout", ["list", "lines"])
def test_one_bad_record_never_ends_an_ingest(tmp_path, layout):
    good = [json.dumps(sound(number)).encode() for number in (0, 1)]
    deep = b'{"id":"x","meta":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    odd = [b'{"id":"caf\xe9","conversations":[]}', deep, b'{"id":1' + b"0" * 6000 + b"}", b"17"]
    records = [good[0], *odd, good[1]]
    data = b"[" + b",".join(records) + b"]" if layout == "list" else b"\n".join(records) + b"\n"
    built = Built(tmp_path, data)
    assert list(built.samples) == ["g0", "g1"]
    assert [(row["index"], row["reason"]) for row in built.bad] == [
        (1, "broken_json"),
        (2, "broken_json"),
        (3, "broken_json"),
        (4, "not_an_object"),
    ]
    assert "UTF-8" in built.bad[0]["detail"] and "nested" in built.bad[1]["detail"]


def test_trailing_comma(tmp_path):
    built = Built(tmp_path, json.dumps([sound(0), sound(1)]).encode()[:-1] + b",]")
    assert list(built.samples) == ["g0", "g1"] and not built.bad


def test_an_integer_where_a_tar_has_its_checksum_is_one_bad_record(tmp_path):
    """cases/faults/bigint.json."""
    huge = '[{"id": "t", "n": ' + "9" * 6000 + ', "image": "ok.jpg"}, ' + json.dumps(sound(0)) + "]"
    built = Built(tmp_path, huge.encode())
    assert list(built.samples) == ["g0"] and built.bad[0]["reason"] == "broken_json"


@pytest.mark.parametrize("end", [', "x": [1, 2 , ]}', ', "x": {"y": 1,}}', ",\n}"])
def test_a_trailing_comma_in_a_record_is_said(tmp_path, end):
    odd = json.dumps(sound(1))[:-1] + end
    built = Built(tmp_path, f"[{json.dumps(sound(0))}, {odd}]".encode())
    assert list(built.samples) == ["g0"]
    assert built.bad[0]["reason"] == "broken_json" and "a trailing comma before" in built.bad[0]["detail"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("layout", ["list", "lines", "dict"])
def test_utf16_without_a_mark_is_read(tmp_path, encoding, layout):
    records = [sound(0), sound(1)]
    text = {
        "list": "\n" + json.dumps(records),
        "lines": "\n".join(map(json.dumps, records)),
        "dict": json.dumps({record["id"]: record for record in records}),
    }[layout]
    assert list(Built(tmp_path, text.encode(encoding)).samples) == ["g0", "g1"]


def test_llamafactory_and_ms_swift(tmp_path):
    messages = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "Red."}]
    for name, value in {
        "llamafactory": {"id": "t", "messages": messages, "images": ["ok.jpg"]},
        "ms_swift": {"id": "t", "query": "<image>What?", "response": "Red.", "images": ["ok.jpg"]},
    }.items():
        built = Built(tmp_path / name, [value])
        (turn,) = built.samples["t"].turns
        assert (turn.question, turn.answer) == ("<image>What?", "Red.") and len(
            built.samples["t"].images
        ) == 1


def test_a_form_that_is_not_known_names_the_keys(build):
    built = build({"id": "t", "prompt": "a", "completion": "b"})
    assert built.reasons == {"t": "bad_conversations"}
    assert "messages" in built.bad[0]["detail"] and "completion" in built.bad[0]["detail"]


@pytest.mark.parametrize(
    "name", ["utf16", "gzip", "zstd", "dict", "folder", "mixture", "parquet", "webdataset"]
)
def test_inputs_that_were_refused_are_read(tmp_path, name):
    """utf16, gz, zst, dict_of_records, folder_of_jsons, yaml_mixture, parquet_bytes, webdataset_tar."""
    images = formats.write_pictures(tmp_path / "images")
    given = FORMATS[name](tmp_path / "given", RECORDS)
    inside = name in ("parquet", "webdataset")
    options = [] if inside else ["--images", str(images)]
    assert main(["build", str(given), "--out", str(tmp_path / "pool"), *options]) == 0
    assert [sample.id for sample in Pool.open(tmp_path / "pool").samples()] == list("abcdef")


@pytest.mark.parametrize("name", ["parquet", "webdataset", "datasets"])
def test_an_image_folder_that_is_not_read_is_said(tmp_path, name, capsys):
    """As the case's own command gives it: `--images` beside images that are in the input."""
    images = formats.write_pictures(tmp_path / "images")
    given = FORMATS[name](tmp_path / "given", RECORDS)
    build = ["build", str(given), "--images", str(images), "--out", str(tmp_path / "pool")]
    assert main(build) == 0
    said = f"the inputs hold their images themselves: nothing is read from the image folder {images}"
    assert f"note: {said}\n" in capsys.readouterr().out and Pool.open(tmp_path / "pool").info["notes"] == [
        said
    ]
    listed = FORMATS["list"](tmp_path / "list", RECORDS)
    assert main([build[0], str(listed), *build[1:]]) == 2
    assert f"{listed} names images in {images}: build two pools" in capsys.readouterr().err


def test_yaml_mixture_takes_the_named_part(tmp_path):
    (tmp_path / "one.json").write_text(json.dumps([sound(0), sound(1)]))
    built = Built(
        tmp_path, b'datasets:\n  - json_path: one.json\n    sampling_strategy: "first:50%"\n', "data.yaml"
    )
    assert list(built.samples) == ["g0"] and built.sources == {"g0": "one"}


def test_zst_that_is_damaged_is_named(tmp_path, capsys):
    assert Built(tmp_path, b"\x28\xb5\x2f\xfd\x04\x00abc", "data.json.zst").status == 1
    error = capsys.readouterr().err
    assert "zstd" in error and error.count("\n") == 1


@pytest.fixture
def plain_pool(tmp_path):
    images = formats.write_pictures(tmp_path / "images")
    build_pool(FORMATS["list"](tmp_path / "plain", RECORDS), images, tmp_path / "pool_plain")
    return Pool.open(tmp_path / "pool_plain")


@pytest.mark.parametrize("name", FORMATS)
def test_a_pool_in_each_format_gives_the_same_rows(tmp_path, plain_pool, name):
    given = FORMATS[name](tmp_path / "given", RECORDS)
    inside = name in ("parquet", "parquet_lists") or name.startswith(("datasets", "webdataset"))
    build_pool(
        given, None if inside else tmp_path / "images", tmp_path / "pool", options=Options(audit="full")
    )
    pool = Pool.open(tmp_path / "pool")
    if "datasets" not in name:  # which keeps of a path no more than its last part, as it saves
        assert pool.hash == plain_pool.hash
    columns = ["row", "id", "source", "n_images", "n_turns", "text_tokens", "image_bytes", "original_id"]
    assert pool.table.select(columns).equals(plain_pool.table.select(columns))
    for ours, theirs in zip(pool.samples(), plain_pool.samples(), strict=True):
        assert (ours.id, ours.turns, ours.system) == (theirs.id, theirs.turns, theirs.system)
        assert [path.read_bytes() for path in ours.images] == [path.read_bytes() for path in theirs.images]


def test_conversations_as_json_in_a_column_are_read(tmp_path, plain_pool):
    table = [row | {"conversations": json.dumps(row["conversations"])} for row in embedded(RECORDS)]
    formats.parquet(tmp_path / "d.parquet", table)
    build_pool(tmp_path / "d.parquet", None, tmp_path / "pool")
    pool = Pool.open(tmp_path / "pool")
    assert [s.turns for s in pool.samples()] == [s.turns for s in plain_pool.samples()]
    assert pool.hash == plain_pool.hash


def test_the_place_of_a_bad_record_is_that_in_its_original(tmp_path):
    table = embedded(RECORDS)
    table[3]["conversations"] = talk("<image>", " ")
    formats.parquet(tmp_path / "d.parquet", table)
    build_pool(tmp_path / "d.parquet", None, tmp_path / "pool", max_bad_fraction=0.5)
    (bad,) = pq.read_table(tmp_path / "pool" / "quarantine.parquet").to_pylist()
    assert (bad["index"], bad["id"], bad["reason"]) == (3, "d", "empty_answer")
    assert Pool.open(tmp_path / "pool").table["index"].to_pylist() == [0, 1, 2, 4, 5]


def test_packed_text_is_the_same_file(tmp_path):
    text = formats.lines_text(RECORDS[2:3]).encode()
    for name, data in (("a", text), ("b", gzip.compress(text)), ("c", zstandard.compress(text))):
        (tmp_path / name).write_bytes(data)
        build_pool(tmp_path / name, None, tmp_path / f"pool_{name}")
    pools = [Pool.open(tmp_path / f"pool_{name}") for name in "abc"]
    assert {pool.raw(0) for pool in pools} == {io.BytesIO(text).getvalue().rstrip(b"\n")}
    assert len({pool.hash for pool in pools}) == 1
