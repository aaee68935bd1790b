"""datasets, Parquet and WebDataset: loaded by the library that reads them, pixels and texts compared."""

import io
import json
import sys
import tarfile

import pyarrow.parquet as pq
import pytest
import webdataset
from datasets import Image as ImageFeature
from datasets import List, Value, load_dataset, load_from_disk
from export_world import CHOSEN, RECORDS, choose
from PIL import Image

EXPECTED = [RECORDS[row] for row in CHOSEN]


def names(record):
    """The image paths of a record."""
    held = record.get("image", [])
    return [held] if isinstance(held, str) else held


def own_bytes(world, record):
    return [(world / "source" / "images" / name).read_bytes() for name in names(record)]


@pytest.fixture
def singles(world):
    """A subset without a sample of several images: rows 3, 2, 0, 5."""
    choose(world / "pool", [3, 2, 0, 5], world / "singles")
    return [RECORDS[row] for row in (3, 2, 0, 5)]


def check_rows(world, rows, expected, column):
    """Ids, conversations, sources and pixels are those of the source."""
    for line, original in zip(rows, expected, strict=True):
        assert line["id"] == original["id"] and line["data_source"] == original["source"]
        assert line["conversations"] == original["conversations"]
        held = line[column]
        shown = [image for image in (held if isinstance(held, list) else [held]) if image is not None]
        originals = [Image.open(io.BytesIO(data)) for data in own_bytes(world, original)]
        assert [image.tobytes() for image in shown] == [image.tobytes() for image in originals]
        assert [image.mode for image in shown] == [image.mode for image in originals]


def test_a_saved_dataset_loads_with_its_images(world, export):
    loaded = load_from_disk(str(export("saved", "--format", "datasets")))
    assert loaded.features["images"] == List(ImageFeature())
    check_rows(world, loaded, EXPECTED, "images")


def test_a_saved_dataset_holds_the_images_themselves(world, export, singles):
    out = export("saved", "--format", "datasets", subset="singles")
    expected = [own_bytes(world, record) for record in singles]
    for file in (world / "source" / "images").rglob("*.*"):
        file.unlink()
    raw = load_from_disk(str(out)).with_format("arrow")[:]["image"].to_pylist()
    assert [[image["bytes"]] if image else [] for image in raw] == expected


def test_a_saved_dataset_can_hold_paths(world, export, singles):
    out = export("saved", "--format", "datasets", "--image-paths", subset="singles")
    loaded = load_from_disk(str(out))
    assert loaded.features["image"] == Value("string")
    folder = world / "source" / "images"
    paths = [str(folder / names(record)[0]) if names(record) else None for record in singles]
    assert loaded["image"][:] == paths


def test_shards_of_a_saved_dataset_have_the_size_asked_for(export):
    out = export("saved", "--format", "datasets", "--shard-size", "4kB")
    assert len(list(out.glob("data-*.arrow"))) > 1 and len(load_from_disk(str(out))) == len(CHOSEN)
    assert not list(out.glob(".arrow*"))


def test_without_the_library_it_is_said_what_to_do(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install datasets" in refused("saved", "--format", "datasets")


def test_parquet_loads_as_a_folder_with_its_images(world, export):
    out = export("pq", "--format", "parquet")
    loaded = load_dataset(str(out), split="train", cache_dir=str(world / "cache"))
    assert loaded.features["images"] == List(ImageFeature())
    check_rows(world, loaded, EXPECTED, "images")


def test_parquet_of_single_images_is_as_llava_onevision_data_has_it(world, export, singles):
    out = export("one.parquet", "--format", "parquet", subset="singles")
    lines = pq.read_table(out).to_pylist()
    assert list(lines[0]) == ["id", "image", "conversations", "data_source"]
    assert lines[1]["image"] is None
    assert lines[0]["image"] == {"bytes": own_bytes(world, singles[0])[0], "path": "deep/none"}
    loaded = load_dataset("parquet", data_files=str(out), split="train", cache_dir=str(world / "cache"))
    assert loaded.features["image"] == ImageFeature()
    check_rows(world, loaded, singles, "image")


def test_parquet_shards_are_numbered_for_the_hub(world, export, monkeypatch):
    monkeypatch.setattr("curation.export.columns._BATCH_ROWS", 2)
    out = export("pq", "--format", "parquet", "--shard-size", "1kB")
    found = sorted(file.name for file in (out / "data").iterdir())
    assert found == [f"train-{i:05d}-of-00003.parquet" for i in range(3)]
    loaded = load_dataset(str(out), split="train", cache_dir=str(world / "cache"))
    assert loaded["id"][:] == [record["id"] for record in EXPECTED]


def test_webdataset_reads_its_shards(world, export):
    out = export("shards", "--format", "webdataset")
    shards = sorted(str(file) for file in out.glob("*.tar"))
    found = list(webdataset.WebDataset(shards, shardshuffle=False))
    assert [sample["__key__"] for sample in found] == [f"{rank:09d}" for rank in range(len(CHOSEN))]
    for sample, original in zip(found, EXPECTED, strict=True):
        record = json.loads(sample["json"])
        assert record["conversations"] == original["conversations"] and record["id"] == original["id"]
        held = record.get("image", [])
        files = [held] if isinstance(held, str) else held
        suffixes = [name.removeprefix(sample["__key__"] + ".") for name in files]
        assert [sample[suffix] for suffix in suffixes] == own_bytes(world, original)
    assert {"jpg"} <= set(found[2]) and {"0.png", "1.webp", "2.jpg"} <= set(found[5])  # rows 3 and 1
    decoded = list(webdataset.WebDataset(shards, shardshuffle=False).decode("pil"))
    assert decoded[2]["jpg"].size == (32, 24) and isinstance(decoded[0]["json"], dict)


def test_a_shard_holds_whole_samples(export):
    out = export("shards", "--format", "webdataset", "--shard-size", "6kB")
    shards = sorted(out.glob("*.tar"))
    assert len(shards) > 1
    keys = [{member.name.split(".")[0] for member in tarfile.open(shard)} for shard in shards]
    assert sum(map(len, keys)) == len(set().union(*keys)) == len(CHOSEN)


def test_shards_are_the_same_bytes_each_time(export):
    first, second = (export(name, "--format", "webdataset", "--name", "s") for name in "ab")
    assert (first / "s-000000.tar").read_bytes() == (second / "s-000000.tar").read_bytes()
