"""A pool in each input format gives the same rows; what cannot be read is named, or is one bad record."""

import gzip
import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import types

import input_formats as formats
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from input_formats import FORMATS, PAIR, PICTURES, RECORDS, embedded, picture, talk

from curation import killpoints
from curation.pool.errors import PoolArgumentError, PoolError
from curation.pool.inputs import InputOptions, Sampling, prepare, unpack
from curation.pool.inputs import codecs as input_codecs
from curation.pool.inputs.pictures import safe_name
from curation.pool.record import BadRecord, RecordOptions, parse_record


def records_of(file):
    text = file.path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    listed = json.loads(text) if file.layout == "list" else [json.loads(line) for line in text.splitlines()]
    return listed if file.take is None else [listed[i] for i in file.take.select(len(listed))]


def rows(prepared, images, **options):
    """What a pool holds of each record: id, source, turns, hash, the bytes of its images; or its reason."""
    found = []
    for file in prepared.files:
        for value in records_of(file):
            try:
                record = parse_record(value, RecordOptions(default_source=file.source, **options))
            except BadRecord as bad:
                found.append((value.get("id"), bad.reason))
                continue
            data = tuple((prepared.images or images).joinpath(name).read_bytes() for name in record.images)
            found.append((record.id, record.source, record.turns, record.content_hash, data))
    return found


@pytest.fixture
def plain(tmp_path):
    """The rows of the pool as plain JSON beside its images."""
    images = formats.write_pictures(tmp_path / "images")
    return rows(prepare([FORMATS["list"](tmp_path / "plain", RECORDS)], tmp_path / "none"), images)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_rows(tmp_path, plain, name):
    given = FORMATS[name](tmp_path / "given", RECORDS)
    prepared = prepare([given], tmp_path / "out")
    found = rows(prepared, tmp_path / "images")
    if "datasets" in name:  # which keeps of a path no more than its last part, as it saves
        found, plain = ([row[:3] + row[4:] for row in listed] for listed in (found, plain))
    assert found == plain and len(plain) == len(RECORDS)
    assert prepare([given], tmp_path / "out") == prepared
    if name in ("list", "lines", "bom", "llamafactory", "swift"):
        assert not (tmp_path / "out").exists() and prepared.files[0].path == given
    for file in (file for file in prepared.files if file.unpacked):
        assert all(type(value["idx"]) is int for value in records_of(file))


@pytest.mark.parametrize("name", ["parquet", "datasets", "webdataset"])
def test_a_record_may_have_several_images(tmp_path, name):
    images = formats.write_pictures(tmp_path / "images")
    lists = [
        r | {"image": [r["image"]] if isinstance(r["image"], str) else r["image"] or []}
        for r in [*RECORDS, PAIR]
    ]
    expected = rows(prepare([FORMATS["list"](tmp_path / "plain", lists)], tmp_path / "none"), images)
    if name == "datasets":
        from datasets import Dataset

        given = tmp_path / "saved"
        Dataset.from_list(embedded(lists)).save_to_disk(given)
    else:
        given = FORMATS[name](tmp_path / "given", lists)
    assert rows(prepare([given], tmp_path / "out"), images) == expected
    assert len(expected[-1][4]) == 2


def stub_hub(monkeypatch, configs):
    """`datasets` with these configs of one repository on its hub."""
    hub = types.ModuleType("datasets")
    hub.exceptions = types.SimpleNamespace(DatasetsError=LookupError)

    def load_dataset(name, config):
        if name != "org/name":
            raise hub.exceptions.DatasetsError(f"{name} doesn't exist on the Hub")
        return configs[config]

    hub.load_dataset, hub.get_dataset_config_names = load_dataset, lambda name: list(configs)
    monkeypatch.setitem(sys.modules, "datasets", hub)


def test_a_hub_dataset_is_read_and_its_configs_are_sources(tmp_path, plain, monkeypatch):
    whole = formats.dataset(embedded(RECORDS))
    half = formats.dataset([{k: v for k, v in row.items() if k != "source"} for row in embedded(RECORDS[:4])])
    stub_hub(monkeypatch, {"default": {"train": whole, "test": whole}})
    prepared = prepare(["org/name"], tmp_path / "out")
    assert rows(prepared, None) == plain and prepared.format == "hub"
    stub_hub(monkeypatch, {"chart(cauldron)": half, "vqa": {"train": half}})
    both = rows(prepare(["org/name"], tmp_path / "out"), None)
    assert [row[1] for row in both] == ["chart(cauldron)"] * 4 + ["vqa"] * 4
    one = rows(prepare(["org/name:vqa"], tmp_path / "out"), None)
    assert [row[0] for row in one] == ["a", "b", "c", "d"] and {row[1] for row in one} == {"vqa"}
    with pytest.raises(PoolArgumentError, match="neither a file or folder here nor a dataset"):
        prepare(["org/other"], tmp_path / "out")
    stub_hub(monkeypatch, {"vqa": {"validation": half, "test": half}})
    with pytest.raises(PoolArgumentError, match="splits validation, test"):
        prepare(["org/name"], tmp_path / "out")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(PoolArgumentError, match="pip install datasets"):
        prepare(["org/name"], tmp_path / "out")


def test_a_missing_file_is_no_hub_name(tmp_path):
    for name in ("no/data.json", str(tmp_path / "none"), "../a/b", "curation/none"):
        with pytest.raises(PoolArgumentError, match="does not exist"):
            prepare([name], tmp_path / "out")


def without_source(records):
    return [{k: v for k, v in record.items() if k != "source"} for record in records]


def test_sources_of_files_folders_and_tables(tmp_path):
    bare = without_source(RECORDS)
    folder = FORMATS["folder"](tmp_path / "a", bare)
    files = prepare([folder], tmp_path / "out").files
    assert [file.source for file in files] == ["1", "2", "more/3"]
    mixed = prepare([FORMATS["mixture"](tmp_path / "b", bare)], tmp_path / "out").files
    assert [file.source for file in mixed] == ["one", "two"]
    for config in ("chart", "vqa"):
        for shard in range(2):
            path = tmp_path / "c" / config / f"train-0000{shard}-of-00002.parquet"
            formats.parquet(path, embedded(bare[3 * shard : 3 * shard + 3]))
    found = rows(prepare([tmp_path / "c"], tmp_path / "out2"), None)
    assert [row[1] for row in found] == ["chart"] * 6 + ["vqa"] * 6
    for name in ("vqa-000000.tar", "vqa-000001.tar", "shard_07.tar", "000012.tar", "more/a2.tar"):
        formats.tar(tmp_path / "e" / name, RECORDS[:1])
    listed = {file.path.name: file.source for file in prepare([tmp_path / "e"], tmp_path / "out5").files}
    assert list(listed.values()) == [None, None, "vqa", "vqa", "more/a2"]
    table = formats.parquet(tmp_path / "d.parquet", embedded(bare))
    alone = [row[1] for row in rows(prepare([table], tmp_path / "out3"), None)]
    assert alone == ["coco", "coco", "text_only", "gqa", "unknown", "coco"]
    deep = prepare([table], tmp_path / "out4", options=InputOptions(source_depth=2))
    assert rows(deep, None, source_depth=2)[0][1] == "coco/train"


def test_the_key_of_the_images_and_of_the_source_can_be_named(tmp_path):
    table = [
        {k: v for k, v in row.items() if k != "source"} | {"set": "s"} for row in embedded(RECORDS, "photo")
    ]
    path = formats.parquet(tmp_path / "d.parquet", table)
    options = InputOptions(image_key="photo", source_key="set")
    found = rows(
        prepare([path], tmp_path / "out", options=options), None, image_key="photo", source_key="set"
    )
    assert [row[1] for row in found] == ["s"] * 6 and [len(row[4]) for row in found] == [1, 1, 0, 1, 1, 1]
    unnamed = rows(prepare([path], tmp_path / "out2"), None)
    assert {row[1] for row in unnamed if len(row) == 2} == {"unknown_media_key"}
    assert [row[0] for row in unnamed if len(row) > 2] == ["c"]


UNSAFE = [
    "../../../outside.png",
    "/etc/outside.png",
    "a/../../outside.png",
    "C:\\outside.png",
    "a\\outside.png",
    "a/./x.png",
    "a//x.png",
    ".hidden/x.png",
    "no_suffix",
    "x.png/y.png",
    "line\nbreak.png",
    "x" * 300 + ".png",
    "",
    None,
    "con:x.png",
    "page.html",
]


def test_unsafe_names_become_content_hashes_inside_the_folder(tmp_path):
    pictures = [picture(number) for number in range(len(UNSAFE))]
    table = [
        {"id": str(i), "image": {"bytes": data, "path": name}, "conversations": talk("<image>", f"{i}")}
        for i, (name, data) in enumerate(zip(UNSAFE, pictures, strict=True))
    ]
    out = tmp_path / "deep" / "er" / "out"
    prepared = prepare([formats.parquet(tmp_path / "d.parquet", table)], out)
    found = rows(prepared, None)
    assert [row[4][0] for row in found] == pictures
    written = {path.resolve() for path in tmp_path.rglob("*.png")}
    assert len(written) == len(UNSAFE) and all(
        out / "unpacked" / "images" in path.parents for path in written
    )
    assert all(safe_name(name) is None for name in UNSAFE)
    assert safe_name("coco/train2017/000 (1).JPG") and safe_name("für/x.webp")
    assert {row[1] for row in found} <= {"unknown", "a", "x.png", ".hidden"}


def test_a_name_belongs_to_its_first_image_whatever_the_workers(tmp_path):
    def table(path, numbers):
        held = [{"bytes": picture(number), "path": "x/1.png"} for number in numbers]
        values = [
            {"id": f"{path}{i}", "image": image, "conversations": talk("<image>", f"{i}")}
            for i, image in enumerate(held)
        ]
        formats.parquet(tmp_path / "in" / path / "t.parquet", values, row_group=1)

    table("a", [5, 5, 6])
    table("b", [6, 5, 7])
    outs = [prepare([tmp_path / "in"], tmp_path / f"out{n}", workers=n) for n in (1, 2)]
    lines = [[file.path.read_bytes() for file in prepared.files] for prepared in outs]
    assert lines[0] == lines[1]
    names = [value["image"] for file in outs[0].files for value in records_of(file)]
    assert [name == "x/1.png" for name in names] == [True, True, False, False, True, False]
    assert names[2] == names[3] != names[5]
    assert [row[4][0] for row in rows(outs[0], None)] == [picture(n) for n in (5, 5, 6, 6, 5, 7)]


BAD_ROWS = {
    "image_missing": {"bytes": None, "path": None},
    "image_empty": {"bytes": b"", "path": "a.png"},
}


@pytest.mark.parametrize("reason", BAD_ROWS)
def test_a_bad_row_of_a_table_is_one_bad_record(tmp_path, reason):
    table = embedded(RECORDS)
    table[1]["image"] = BAD_ROWS[reason]
    schema = pa.Table.from_pylist(embedded(RECORDS)).schema
    columns = {name: [row[name] for row in table] for name in schema.names}
    if reason == "image_missing":  # a struct that is there, with null in both fields
        bytes_, paths = zip(*((v or {}).values() or (None, None) for v in columns["image"]), strict=True)
        fields = [pa.array(bytes_, pa.binary()), pa.array(paths, pa.string())]
        columns["image"] = pa.StructArray.from_arrays(fields, ["bytes", "path"])
        columns["image"] = pa.concat_arrays(
            [columns["image"].slice(0, 2), pa.array([None], columns["image"].type), columns["image"].slice(3)]
        )
    pq.write_table(pa.table(columns, schema=schema), tmp_path / "d.parquet")
    prepared = prepare([tmp_path / "d.parquet"], tmp_path / "out")
    found = rows(prepared, None)
    assert found[1] == ("b", reason) and [row[0] for row in found] == list("abcdef")
    assert [value["idx"] for value in records_of(prepared.files[0])] == list(range(6))


def test_a_string_that_is_not_utf8_is_one_bad_record(tmp_path):
    ids = pa.array([b"a", b"\xff\xfe", b"c"], pa.binary()).cast(pa.binary())
    ids = pa.Array.from_buffers(pa.string(), 3, ids.buffers())
    talks = pa.array([talk("q", str(i)) for i in range(3)])
    pq.write_table(pa.table({"id": ids, "conversations": talks}), tmp_path / "d.parquet")
    found = rows(prepare([tmp_path / "d.parquet"], tmp_path / "out"), None)
    assert [row[1] for row in found] == ["text_only", "bad_unicode", "text_only"]


def test_columns_that_json_lacks_are_kept_as_text(tmp_path):
    import datetime
    import decimal

    row = {
        "id": "a",
        "conversations": talk("q", "a"),
        "when": datetime.datetime(2026, 1, 2),
        "price": decimal.Decimal("1.5"),
        "mask": b"\x00\x01",
        "nan": float("nan"),
        "idx": 17,
    }
    prepared = prepare([formats.parquet(tmp_path / "d.parquet", [row])], tmp_path / "out")
    (value,) = records_of(prepared.files[0])
    assert value["when"].startswith("2026-01-02") and value["price"] == "1.5" and value["mask"] == "2 bytes"
    assert (value["idx"], value["own_idx"]) == (0, 17)
    assert parse_record(value).unknown == ("when", "price", "mask")


def webdataset(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            if isinstance(data, tarfile.TarInfo):
                archive.addfile(data)
            else:
                formats.add_member(archive, name, data)
    return path


def link(name, target):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return (name, info)


def sample(**more):
    return json.dumps({"conversations": talk("<image>", "dog")} | more).encode()


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def test_a_sample_of_a_tar_that_fills_the_memory_is_one_bad_record(tmp_path, monkeypatch):
    monkeypatch.setattr("curation.pool.inputs.tars.MAX_BYTES", 4000)
    small, members = picture(1), [(f"a.{number}.png", picture(number)) for number in range(80)]
    path = webdataset(
        tmp_path / "d.tar", [*members, ("a.json", sample()), ("b.png", small), ("b.json", sample())]
    )
    found = rows(prepare([path], tmp_path / "out"), None)
    assert [row[:2] for row in found] == [("a", "image_too_large"), ("b", "unknown")]


def test_each_bad_sample_of_a_tar_is_one_bad_record(tmp_path):
    path = webdataset(
        tmp_path / "d.tar",
        [
            ("good.jpg", picture(1, "JPEG")),
            ("good.json", sample()),
            ("nojson.jpg", picture(2)),
            ("broken.json", b"{'a': 1}"),
            ("broken.jpg", picture(2)),
            ("list.json", b"[1]"),
            ("missing.json", sample(image=["a.jpg", "b.jpg"])),
            ("missing.jpg", picture(3)),
            link("link.jpg", "/etc/passwd"),
            ("link.json", sample()),
            ("empty.jpg", b""),
            ("empty.json", sample()),
            ("last.json", sample(image="c.png")),
            ("last.png", picture(4)),
            ("deep.json", sample(meta=nested(900))),
            ("./large.json", b'{"id": 123456789012345678901234, "conversations": []}'),
        ],
    )
    prepared = prepare([path], tmp_path / "out")
    found = rows(prepared, None)
    assert [(row[0], row[1]) for row in found] == [
        ("good", "unknown"),
        ("nojson", "bad_conversations"),
        ("broken", "broken_json"),
        ("list", "not_an_object"),
        ("missing", "image_missing"),
        ("link", "image_broken"),
        ("empty", "image_empty"),
        ("last", "unknown"),
        ("deep", "broken_json"),
        (123456789012345678901234, "bad_conversations"),
    ]
    assert [value["idx"] for value in records_of(prepared.files[0])] == list(range(10))


def test_images_of_a_tar_are_in_the_order_of_the_record_else_of_their_numbers(tmp_path):
    def order(name, members, **record):
        text = json.dumps({"conversations": talk("<image>" * 3, "dog")} | record).encode()
        path = webdataset(tmp_path / f"{name}.tar", [*members, (f"{name}.json", text)])
        prepared = prepare([path], tmp_path / name)
        (value,) = records_of(prepared.files[0])
        return rows(prepared, None)[0][4], value

    three = [picture(i) for i in (1, 2, 3)]
    data, _ = order("n", list(zip(["n.10.png", "n.2.png", "n.png"], three, strict=True)))
    assert data == (three[2], three[1], three[0])
    data, value = order(
        "r",
        list(zip(["r.a.png", "r.b.png", "r.c.png"], three, strict=True)),
        image=["x/r.c.png", "x/r.a.png", "x/r.b.png"],
    )
    assert data == (three[2], three[0], three[1]) and value["image"][0] == "x/r.c.png"
    data, value = order(
        "u",
        [
            ("u.0.png", three[0]),
            ("u.1.png", three[1]),
            ("u.2.png", three[2]),
            ("u.txt", b"t"),
            ("u.seg.npy", b"n"),
        ],
    )
    assert parse_record(value).unknown == ("_members",) and value["_members"] == ["u.txt", "u.seg.npy"]


def test_the_same_keys_in_two_folders_of_a_tar_are_two_records(tmp_path):
    members = [
        (f"{folder}/1.{suffix}", data)
        for folder in "ab"
        for suffix, data in (("png", picture(ord(folder) % 9)), ("json", sample()))
    ]
    found = rows(prepare([webdataset(tmp_path / "d.tar", members)], tmp_path / "out"), None)
    assert [row[0] for row in found] == ["a/1", "b/1"] and found[0][4] != found[1][4]


def test_a_dict_of_records_keeps_ids_and_bad_values(tmp_path):
    deep = "[" * 100_000 + "]" * 100_000
    first, second = sample(image="a.png").decode(), sample(id="own", image="b.png").decode()
    odd = sample(image="c\ud83d.png").decode()
    text = f'{{ "k1": {first},\n"k2": {second}, "k3": 17, "k4": {{"meta": {deep}}}, "k5" :{odd} }}\n'
    (tmp_path / "d.json").write_text(text)
    prepared = prepare([tmp_path / "d.json"], tmp_path / "out")
    found = [(value["id"], value.get("_unreadable", [""])[0]) for value in records_of(prepared.files[0])]
    assert found == [("k1", ""), ("own", ""), ("k3", "not_an_object"), ("k4", "broken_json"), ("k5", "")]
    for cut in (text[:-3], text[: len(text) // 2], text.replace('"k2":', '"k2"'), text + "x"):
        (tmp_path / "d.json").write_text(cut)
        with pytest.raises(PoolError, match="not valid JSON at record"):
            prepare([tmp_path / "d.json"], tmp_path / "out")


def test_a_dict_is_read_in_pieces(tmp_path, monkeypatch):
    records = {f"k{i}": {"conversations": talk(f"é☃{i}" * 7, '\\"{[' + "x" * (i % 50))} for i in range(300)}
    (tmp_path / "d.json").write_text(json.dumps(records, ensure_ascii=False))
    found = [rows(prepare([tmp_path / "d.json"], tmp_path / "a"), None)]
    monkeypatch.setattr("curation.pool.inputs.text._CHUNK", 37)
    found.append(rows(prepare([tmp_path / "d.json"], tmp_path / "b"), None))
    assert found[0] == found[1] and [row[0] for row in found[0]] == list(records)


def test_an_interrupted_unpacking_goes_on(tmp_path, plain, monkeypatch):
    path = FORMATS["parquet"](tmp_path / "given", RECORDS)
    monkeypatch.setattr("curation.pool.inputs.tables.SHARD_ROWS", 2)
    real, started = unpack._unpack, []

    def failing(work):
        started.append(work[1].name)
        if len(started) == 2:
            raise KeyboardInterrupt
        real(work)

    monkeypatch.setattr(unpack, "_unpack", failing)
    with pytest.raises(KeyboardInterrupt):
        prepare([path], tmp_path / "out")
    seen = []
    prepared = prepare([path], tmp_path / "out", on_progress=lambda done, total: seen.append((done, total)))
    assert started == [f"records-0000{i}.jsonl" for i in (0, 1, 1, 2)]
    assert rows(prepared, None) == plain and seen[-1][0] == seen[-1][1]
    names = sorted(p.name for p in (tmp_path / "out" / "unpacked").iterdir())
    assert names == ["done.json", "images", "plan.json", *(f"records-0000{i}.jsonl" for i in range(3))]
    prepare([path], tmp_path / "out")
    assert len(started) == 4
    formats.parquet(path, embedded(RECORDS[:2]))
    assert len(rows(prepare([path], tmp_path / "out"), None)) == 2


def test_a_kill_while_images_get_their_names_is_harmless(tmp_path, plain, monkeypatch):
    path = FORMATS["parquet"](tmp_path / "given", RECORDS)
    real = unpack.named_lines

    def dying(*arguments):
        yield from ()
        raise KeyboardInterrupt

    monkeypatch.setattr(unpack, "named_lines", dying)
    with pytest.raises(KeyboardInterrupt):
        prepare([path], tmp_path / "out")
    monkeypatch.setattr(unpack, "named_lines", real)
    assert rows(prepare([path], tmp_path / "out"), None) == plain


@pytest.mark.parametrize(
    "text", ["first:2", "first:50%", "first:34%", "end:2", "end:1%", "random:3", "random:50%"]
)
@pytest.mark.parametrize("name", ["list", "gzip", "parquet", "webdataset"])
def test_a_mixture_takes_a_part_of_each_file(tmp_path, plain, name, text, monkeypatch):
    monkeypatch.setattr("curation.pool.inputs.tables.SHARD_ROWS", 2)
    given = FORMATS[name](tmp_path / "given", RECORDS)
    mixture = tmp_path / "given" / "mix.yaml"
    mixture.write_text(f"datasets:\n  - json_path: {given.name}\n    sampling_strategy: '{text}'\n")
    places = Sampling.parse(text, 0, given.name).select(len(RECORDS))
    found = rows(prepare([mixture], tmp_path / "out"), tmp_path / "images")
    assert found == [plain[i] for i in places] and 0 < len(places) < 6


def test_samplings_are_those_of_llava_next():
    assert Sampling.parse("all") is None
    assert Sampling.parse("first:34%").select(6).tolist() == [0, 1, 2]  # 2.04, rounded up
    assert Sampling.parse("end:1").select(6).tolist() == [5]
    assert Sampling.parse("first:100").select(6).tolist() == list(range(6))
    assert Sampling.parse("first:29%").select(100).tolist() == list(range(29))
    drawn = Sampling.parse("random:50%", 3, "a").select(1000)
    assert len(drawn) == 500 and np.all(np.diff(drawn) > 0)
    assert drawn.tolist() == Sampling.parse("random:50%", 3, "a").select(1000).tolist()
    assert drawn.tolist() != Sampling.parse("random:50%", 3, "b").select(1000).tolist()
    for bad in ("some", "first", "first:", "first:-1", "first:1.5", "random:200%", "last:3"):
        with pytest.raises(ValueError):
            Sampling.parse(bad)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("datasets:\n  - json_path: [one.json\n", r"mix.yaml:3: not valid YAML"),
        ("datasets:\n  - json_path: one.json\n   sampling_strategy: all\n", r"mix.yaml:3: not valid YAML"),
        ("datasets:\n  - json_path: none.json\n", r"mix.yaml:2: .*none.json does not exist"),
        (
            "datasets:\n  - json_path: one.json\n    sampling_strategy: most\n",
            r"mix.yaml:2: sampling_strategy must be",
        ),
        ("datasets:\n  - sampling_strategy: all\n", r"mix.yaml:2: json_path is missing"),
        ("datasets:\n  - json_path: one.json\n    weight: 2\n", r"mix.yaml:3: unknown key 'weight'"),
        ("datasets:\n  one: two\n", r"mix.yaml:2: datasets must be a list"),
        ("datasets:\n  - one.json\n", r"mix.yaml:2: an entry must have json_path"),
        ("datasets: []\n", r"mix.yaml is no mixture"),
        ("# empty\n", r"mix.yaml is no mixture"),
        ("datasets:\n  - json_path: mix.yaml\n", r"mix.yaml:2: .* is a mixture itself"),
    ],
)
def test_a_malformed_mixture_is_named_with_its_line(tmp_path, text, said):
    (tmp_path / "one.json").write_text(formats.json_text(RECORDS))
    (tmp_path / "mix.yaml").write_text(text)
    with pytest.raises(PoolError, match=said) as error:
        prepare([tmp_path / "mix.yaml"], tmp_path / "out")
    assert "\n" not in str(error.value)


NOT_READ = {
    "zip": (b"PK\x03\x04....", "a zip archive.*unpack it"),
    "7z": (b"7z\xbc\xaf\x27\x1c..", "a 7z archive"),
    "hdf5": (b"\x89HDF\r\n\x1a\n...", "HDF5"),
    "feather": (b"ARROW1\x00\x00...", "Arrow IPC file"),
    "arrow": (b"\xff\xff\xff\xff\x00\x00", "Arrow IPC stream.*save_to_disk"),
    "pickle": (b"\x80\x04\x95...", "pickle"),
    "numpy": (b"\x93NUMPY\x01\x00", "NumPy"),
    "csv": (b"id,image,question\n1,a.jpg,what\n2,b.jpg,who\n", "CSV"),
    "mp4": (b"\x00\x00\x00\x18ftypmp42", "a video"),
    "jpeg": (picture(1, "JPEG"), "a JPEG image.*--images"),
    "png": (picture(1), "a PNG image"),
    "webp": (picture(1, "WEBP"), "a WebP image"),
    "html": (b"<!DOCTYPE html><html>login</html>", "web page.*download the file again"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
    "sqlite": (b"SQLite format 3\x00", "SQLite"),
    "bzip2": (b"BZh91AY&SY", "bzip2"),
    "xz": (b"\xfd7zXZ\x00", "xz"),
    "binary": (b"\x01\x02\x00\x03", "binary file of unknown kind"),
    "prose": (b"hello world", "starts with neither"),
    "empty": (b"", "is empty"),
    "wrapped": (b'{"info": 1, "data": [{"conversations": []}]}', "a list under 'data'"),
    "object": (
        b'{\n "sampling_rate": 3,\n "lora": {"r": 8}\n}\n',
        "holds no records; its keys are sampling_rate, lora",
    ),
    "table": (
        formats.table_bytes([{"id": "a", "score": 1.0}]),
        "no column of conversations.*columns are id, score",
    ),
    "wrapped_first": (b'{"data": [{"conversations": []}]}', "a list under 'data'"),
    "csv_in_gzip": (gzip.compress(b"a,b\n1,2\n"), "CSV"),
}


@pytest.mark.parametrize("kind", NOT_READ)
def test_what_is_not_read_is_named_by_its_kind(tmp_path, kind):
    data, said = NOT_READ[kind]
    (tmp_path / "data").write_bytes(data)
    with pytest.raises(PoolError, match=said) as error:
        prepare([tmp_path / "data"], tmp_path / "out")
    assert "\n" not in str(error.value) and str(tmp_path / "data") in str(error.value)


def test_a_folder_says_what_it_left_out_or_lacks(tmp_path):
    folder = FORMATS["folder"](tmp_path, RECORDS)
    (folder / "scores.csv").write_text("a,b\n1,2\n")
    (folder / "README.md").write_text("hi")
    (folder / "export.json").write_text('{\n "format": "llava"\n}\n')
    (folder / "rows.parquet").write_bytes(formats.table_bytes([{"row": 1}]))
    prepared = prepare([folder], tmp_path / "out")
    names = "export.json, rows.parquet, scores.csv"
    assert prepared.notes == (f"3 file(s) of {folder} without records were left out: {names}",)
    assert [file.source for file in prepared.files] == ["1", "2", "more/3"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(PoolArgumentError, match="holds no records"):
        prepare([tmp_path / "empty"], tmp_path / "out")
    (tmp_path / "lone").mkdir()
    (tmp_path / "lone" / "config.json").write_text('{"lr": 1}')
    with pytest.raises(PoolArgumentError, match=r"config\.json is one JSON object that holds no records"):
        prepare([tmp_path / "lone"], tmp_path / "out")
    (tmp_path / "empty" / "data.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(PoolArgumentError, match="HDF5"):
        prepare([tmp_path / "empty"], tmp_path / "out")


@pytest.mark.parametrize(
    "name", ["gzip", "zstd", "parquet", "webdataset", "webdataset_gzip", "datasets", "utf16"]
)
def test_a_file_that_is_cut_off_is_an_error_not_a_short_pool(tmp_path, name):
    given = FORMATS[name](tmp_path / "given", RECORDS)
    path = sorted(given.glob("*.arrow"))[0] if given.is_dir() else given
    data = path.read_bytes()
    os.truncate(path, {"utf16": len(data) - 1, "webdataset": 4 * 512}.get(name, len(data) * 2 // 3))
    with pytest.raises(PoolError, match=r"cut|truncated|damaged|not utf-16") as error:
        prepare([given], tmp_path / "out")
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_many_frames_are_one_file(tmp_path, plain):
    text = formats.json_text(RECORDS).encode()
    for name, pack in (("z", zstandard.compress), ("g", gzip.compress)):
        (tmp_path / name).write_bytes(pack(text[:100]) + pack(text[100:]))
        assert rows(prepare([tmp_path / name], tmp_path / f"out{name}"), tmp_path / "images") == plain


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_a_bomb_is_refused_before_it_fills_the_disk(tmp_path, monkeypatch, pack):
    monkeypatch.setattr(input_codecs, "_FREE", 1 << 20)
    (tmp_path / "d").write_bytes(pack(b'[{"a":"' + b"x" * (1 << 26)))
    with pytest.raises(PoolError, match="grows more than"):
        prepare([tmp_path / "d"], tmp_path / "out")
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 1 << 23


def test_a_format_can_be_named_and_is_checked(tmp_path):
    table, listed = FORMATS["parquet"](tmp_path / "a", RECORDS), FORMATS["list"](tmp_path / "b", RECORDS)
    assert prepare([table], tmp_path / "out", format="parquet").format == "parquet"
    assert prepare([listed], tmp_path / "out", format="json").format == "json"
    mixture = FORMATS["mixture"](tmp_path / "c", RECORDS)
    assert prepare([mixture], tmp_path / "out").format == "mixture"
    for path, name in (
        (table, "webdataset"),
        (mixture, "json"),
        (listed, "jsonl"),
        (listed, "mixture"),
        (listed, "folder"),
    ):
        with pytest.raises(PoolArgumentError, match=f"--format {name}, but .* is"):
            prepare([path], tmp_path / "out", format=name)
    with pytest.raises(PoolArgumentError, match="must be one of"):
        prepare([listed], tmp_path / "out", format="csv")
    with pytest.raises(PoolArgumentError, match="source-depth"):
        prepare([listed], tmp_path / "out", options=InputOptions(source_depth=0))


def test_several_inputs_are_one_pool(tmp_path, plain):
    given = [FORMATS[name](tmp_path / name, RECORDS) for name in ("lines", "parquet", "gzip")]
    prepared = prepare(given, tmp_path / "out", workers=2)
    assert [file.source for file in prepared.files] == [
        "data",
        "d",
        "d",
    ] and prepared.format == "json.gzip+jsonl+parquet"
    formats.write_pictures(tmp_path / "out" / "unpacked" / "images")
    assert rows(prepared, None) == plain * 3


def test_every_picture_is_a_plain_file_of_its_bytes(tmp_path):
    prepared = prepare([FORMATS["parquet"](tmp_path / "given", RECORDS)], tmp_path / "out")
    found = {
        p.relative_to(prepared.images).as_posix(): p.read_bytes()
        for p in prepared.images.rglob("*")
        if p.is_file()
    }
    assert found == PICTURES and not (tmp_path / "out" / "unpacked" / "store").exists()
    assert all(not path.is_symlink() for path in prepared.images.rglob("*"))
    assert io.BytesIO(found["c.png"]).read(4) == b"\x89PNG"


@pytest.mark.slow
def test_an_unpacking_that_is_killed_anywhere_gives_the_same_files(tmp_path):
    given = FORMATS["parquet"](tmp_path / "given", RECORDS)
    code = (
        "import sys; from curation.pool.inputs import prepare, tables; tables.SHARD_ROWS = 2; "
        "prepare([sys.argv[1]], sys.argv[2])"
    )

    def run(out, point=None):
        environment = os.environ | ({killpoints.VARIABLE: point} if point else {})
        command = [sys.executable, "-c", code, str(given), str(out)]
        return subprocess.run(command, env=environment, check=False, timeout=120).returncode

    assert run(tmp_path / "whole", f"list:{tmp_path / 'points'}") == 0
    points = (tmp_path / "points").read_text().splitlines()
    assert len(points) > 10
    expected = tree(tmp_path / "whole")
    for point in points[:: max(1, len(points) // 8)]:
        out = tmp_path / point.replace("/", "_")
        assert run(out, point) == -signal.SIGKILL
        assert run(out) == 0 and tree(out) == expected, point


def tree(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "name", ["gzip", "zstd", "utf16", "dict", "mixture", "parquet", "datasets", "webdataset"]
)
def test_any_damage_is_an_error_in_one_line_or_bad_records(tmp_path, name):
    """Twenty files with bytes changed, cut out or put in, whatever comes of it."""
    draw = random.Random(name)
    for number in range(20):
        given = FORMATS[name](tmp_path / f"in{number}", RECORDS)
        files = [path for path in given.rglob("*") if path.is_file()] if given.is_dir() else [given]
        path = draw.choice(sorted(files))
        data = bytearray(path.read_bytes())
        for _ in range(draw.choice([1, 3, 10])):
            at = draw.randrange(len(data))
            data[at : at + draw.choice([0, 1, 30])] = draw.randbytes(draw.choice([0, 1, 30]))
        path.write_bytes(data)
        try:
            prepared = prepare([given], tmp_path / f"out{number}")
        except PoolError as error:
            assert "\n" not in str(error) and len(str(error)) < 600
            continue
        for line in (line for file in prepared.files if file.unpacked for line in file.path.open("rb")):
            try:
                parse_record(json.loads(line))
            except BadRecord as bad:
                assert bad.detail
