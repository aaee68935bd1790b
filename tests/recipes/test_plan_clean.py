"""What a recipe says of its pool decides its stages: which there are, what they read, what changes them."""

import gzip
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from plans import by_name, changed, plan
from said import Said

from recipes.errors import RecipeError
from recipes.load import load
from recipes.stages import pool as stage

OWN = "name: own\nscale: tiny\narms: {a: {selector: random, budget: 5}}\n"
RECORDS = [
    {
        "id": f"s{n}",
        "image": f"{n}.png",
        "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A dog."}],
    }
    for n in range(4)
]


def write(project: Path, source: str, **keys: object) -> None:
    """own.yaml with a pool of these files."""
    more = "".join(f", {key}: {value}" for key, value in keys.items())
    (project / "own.yaml").write_text(f"{OWN}pool: {{kind: file, source: {source}{more}}}\n")


@pytest.fixture
def own(project) -> Path:
    """The working directory, with data.json, its images and own.yaml; evaluated on the mini world's items."""
    (project / "images").mkdir()
    for n in range(4):
        Image.new("RGB", (32, 32), (n, 0, 0)).save(project / "images" / f"{n}.png")
    (project / "data.json").write_text(json.dumps(RECORDS))
    write(project, "data.json", images="images")
    return project


# ------------------------------------------------------------------------------------------ cleaning


def test_all_reads_the_clean_pool_and_only_the_comparison_the_leaks(project):
    nodes = by_name()
    readers = {name for name, node in nodes.items() if nodes["pool"] in node.parents()}
    assert readers == {"clean"}
    assert {name for name, node in nodes.items() if nodes["leaks"] in node.parents()} == {"compare"}
    assert nodes["leaks"].inputs["pool"] is nodes["clean"] and "leaks" not in nodes["clean"].inputs
    assert nodes["compare"].config["decontaminate"] == "flag" and nodes["compare"].inputs["leaks"]


def test_leaks_that_are_dropped_come_before_all_else(project):
    nodes = by_name("pool.decontaminate=drop")
    assert nodes["leaks"].inputs["pool"] is nodes["pool"]
    assert nodes["clean"].inputs["leaks"] is nodes["leaks"]
    assert "clean" in changed(by_name(), nodes) and "train" in changed(by_name(), nodes)
    assert nodes["compare"].config["decontaminate"] == "drop"


def test_another_benchmark_trains_nothing_again_while_leaks_are_flagged(project):
    assert changed(by_name(), by_name("bench.seed=7")) >= {"leaks", "answer", "compare"}
    write(project, "data.json")
    (project / "data.json").write_text(json.dumps(RECORDS))
    before, after = by_name(file="own.yaml"), by_name("bench.seed=7", file="own.yaml")
    assert changed(before, after) == {"bench", "leaks", "answer", "evaluate", "compare"}
    drop = "pool.decontaminate=drop"
    before, after = by_name(drop, file="own.yaml"), by_name(drop, "bench.seed=7", file="own.yaml")
    assert "train" in changed(before, after), "the pool is another one"


def test_off_is_off(project):
    nodes = by_name("pool.decontaminate=off", "pool.over_length=off")
    assert "clean" not in nodes and "leaks" not in nodes
    assert nodes["tokens"].inputs["pool"] is nodes["pool"] and "tokenizer" in nodes["pool"].inputs
    assert nodes["compare"].config["decontaminate"] == "off" and "leaks" not in nodes["compare"].inputs
    (project / "off.yaml").write_text(
        "extends: demo.yaml\nname: none\npool: {dedup: off, decontaminate: off}\n"
    )
    assert load("off.yaml").recipe.pool.decontaminate == "off", "YAML reads a bare off as false"


def test_copies_are_taken_out_only_if_asked_for(project):
    assert by_name()["clean"].config["dedup"] == "off"
    nodes = by_name("pool.dedup={text: exact}")
    assert nodes["clean"].config["dedup"] == {
        "images": "near",
        "text": "exact",
        "radius": 8,
        "threshold": 0.8,
    }
    assert nodes["clean"].hash != by_name()["clean"].hash
    with pytest.raises(RecipeError, match=r"pool.dedup"):
        by_name("pool.dedup={kind: everything}")


@pytest.mark.parametrize(
    ("settings", "policy"),
    [
        (("train.max_length=50",), "drop"),
        (("train.max_length=50", "train.too_long=truncate"), "truncate"),
        (("train.max_length=50", "train.too_long=truncate", "pool.over_length=drop"), "drop"),
        (("train.max_length=50", "train.too_long=error"), "error"),
    ],
)
def test_long_samples_are_treated_as_the_training_says_or_the_pool(project, settings, policy):
    measured = by_name(*settings)["clean"].config["measured"]
    assert measured["policy"] == policy and measured["max_length"] == 50


def test_cutting_what_the_training_drops_is_refused(project):
    with pytest.raises(RecipeError, match=r"pool.over_length: truncate leaves long samples in the pool"):
        load("demo.yaml", ["pool.over_length=truncate", "train.max_length=50"])


def test_workers_change_no_hash_but_what_decides_rows_does(own):
    before = by_name(file="own.yaml")
    assert not changed(before, by_name("resources.token_workers=9", file="own.yaml"))
    for key, value in (
        ("audit", "header"),
        ("image_key", "photo"),
        ("source_key", "origin"),
        ("source_depth", 2),
        ("allow_outside", "true"),
        ("max_pixels", 100),
        ("max_bad_fraction", 0.5),
    ):
        after = by_name(f"pool.{key}={value}", file="own.yaml")
        assert "pool" in changed(before, after), key


def test_a_suite_without_its_mirror_is_not_searched_but_dropping_is_refused(own):
    (own / "own.yaml").write_text(
        (own / "own.yaml").read_text() + "evaluation: {suite: rules}\nbench: null\n"
    )
    assert "leaks" not in by_name(file="own.yaml")
    refused = plan("pool.decontaminate=drop", file="own.yaml").refusals
    assert "evaluation.data.mirror: missing" in refused["leaks"]


# ------------------------------------------------------------------------------------------ files


def test_several_files_are_one_pool(own):
    first, second = own / "a.json", own / "b.json"
    first.write_text(json.dumps(RECORDS[:2]))
    second.write_text(json.dumps(RECORDS[2:]))
    write(own, "[a.json, b.json]", images="images")
    nodes = by_name(file="own.yaml")
    assert [one.path for one in nodes["pool"].inputs["source"]] == [first, second]
    second.write_text(json.dumps(RECORDS[2:] + RECORDS[:1]))
    assert "pool" in changed(nodes, by_name(file="own.yaml"))


def test_sources_in_several_folders_need_the_folder_of_images(own):
    (own / "more").mkdir()
    shutil.copy(own / "data.json", own / "more" / "data.json")
    write(own, "[data.json, more/data.json]")
    with pytest.raises(RecipeError, match=r"pool.images: missing; the sources lie in 2 folders"):
        by_name(file="own.yaml")


def folder(own: Path) -> Path:
    (own / "all").mkdir()
    return own / "all" / "part.json"


def packed(own: Path) -> Path:
    return own / "data.json.gz"


def mixture(own: Path) -> Path:
    (own / "mix.yaml").write_text("datasets:\n  - json_path: part.json\n    sampling_strategy: all\n")
    return own / "part.json"


@pytest.mark.parametrize(
    ("source", "make"), [("all", folder), ("data.json.gz", packed), ("mix.yaml", mixture)]
)
def test_files_and_images_of_every_form_are_hashed(own, source, make):
    file, opened = make(own), gzip.open if source.endswith(".gz") else open
    with opened(file, "wt") as out:
        json.dump(RECORDS, out)
    write(own, source, images="images")
    before = by_name(file="own.yaml")
    Image.new("RGB", (32, 32), (99, 0, 0)).save(own / "images" / "2.png")
    image = by_name(file="own.yaml")
    assert "pool" in changed(before, image), "an image that the records name"
    with opened(file, "wt") as out:
        json.dump(RECORDS[:3], out)
    assert "pool" in changed(image, by_name(file="own.yaml"))


def test_what_is_no_pool_is_refused_with_its_kind(own):
    (own / "table.csv").write_text("a,b\n1,2\n")
    write(own, "table.csv")
    with pytest.raises(RecipeError, match=r"own.yaml:\d+: pool.source: .*table.csv"):
        by_name(file="own.yaml")


def test_keys_that_read_the_users_data_modify_no_protocol(own):
    keys = ["pool.image_key=photo", "pool.source_depth=2", "pool.max_pixels=9", "pool.allow_outside=true"]
    (own / "scales" / "open.yaml").write_text(
        (own / "scales" / "tiny.yaml")
        .read_text()
        .replace("pool: {kind: mini, size: 600, seed: 0, defects: {}}", "pool: {kind: file}")
    )
    text = (own / "own.yaml").read_text().replace("scale: tiny", "scale: open")
    (own / "own.yaml").write_text(text)
    assert load("own.yaml", keys).protocol == "standard"
    assert load("own.yaml", ["pool.decontaminate=drop"]).modified == ("pool.decontaminate",)


def test_stage_pool_reads_what_the_keys_say(own, tmp_path):
    records = [{**record, "photo": record["image"], "origin": "mine"} for record in RECORDS]
    for record in records:
        del record["image"]
    (own / "data.json").write_text(json.dumps(records))
    config = {"kind": "file", "audit": "full", "max_bad_fraction": 0, "limit": None, "format": None}
    config |= {"image_key": "photo", "source_key": "origin", "source_depth": 1, "allow_outside": False}
    config |= {"max_pixels": None}
    out, said = tmp_path / "out", Said()
    out.mkdir()
    found = stage.run(config, {"source": own / "data.json", "images": own / "images"}, out, said)
    assert found["samples"] == 4 and found["sources"] == {"mine": 4} and (out / "audit.md").is_file()
