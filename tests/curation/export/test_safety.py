"""Nothing is damaged: not what the pool consists of, not an earlier export, not by a kill."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from export_world import CHOSEN, RECORDS, build_world, choose, contents

from curation.export import records
from curation.export.__main__ import main
from curation.pool.ingest import Options, build_pool
from curation.pool.read import Pool

FOLDERS = ("llamafactory", "datasets", "parquet", "webdataset")
FILES = ("llava", "jsonl", "swift", "ids")


@pytest.mark.parametrize("form", FOLDERS + FILES)
def test_no_format_writes_over_what_the_pool_consists_of(world, refused, form):
    source = world / "source"
    (world / "link.json").symlink_to(source / "data.json")
    os.link(source / "data.json", world / "hard.json")
    os.link(world / "pool" / "pool.parquet", world / "hard.parquet")
    (world / "linked").symlink_to(world / "pool")
    (world / "images").symlink_to(source / "images")
    for out in (
        source / "data.json",
        world / "link.json",
        world / "hard.json",
        world / "hard.parquet",
        world / "pool",
        world / "pool" / "new",
        world / "linked" / "pool.json",
        world / "linked" / "a" / "b",
        world / "subset",
        world / "subset" / "manifest.json",
        source,
        world,
        source / "images",
        world / "images",
        source / "images" / "b.png",
        world / "images" / "deep" / "a.jpg",
        source / "images" / "deep" / ".." / "c.webp",
    ):
        for flags in ((), ("--overwrite",)):
            assert "choose another" in (line := refused(out, "--format", form, *flags)) or "folder" in line, (
                out
            )


def test_an_image_under_another_name_is_known(world, refused):
    os.link(world / "source" / "images" / "b.png", world / "picture.json")
    assert "is an image of the pool" in refused("picture.json", "--overwrite")


def test_another_file_of_the_image_folder_is_replaced_on_request(world, export):
    """The image folder is often that of the data, so an earlier export may lie in it."""
    export("source/images/chosen.json")
    assert len(json.loads(export("source/images/chosen.json", "--overwrite").read_text())) == len(CHOSEN)


def test_the_companions_of_an_export_damage_nothing_either(world, refused):
    (world / "a.json.rows.parquet").symlink_to(world / "pool" / "pool.parquet")
    assert "lies in the pool folder" in refused("a.json", "--overwrite")
    os.remove(world / "a.json.rows.parquet")
    (world / "a.json.rows.parquet").write_text("other")
    assert "a.json.rows.parquet exists already" in refused("a.json")


def test_copies_never_replace_images(world, export, refused):
    form = ("--format", "swift")
    assert "image folder" in refused("a.jsonl", *form, "--copy-images", world / "source" / "images")
    assert "pool folder" in refused("a.jsonl", *form, "--copy-images", world / "pool" / "images")
    (world / "other").mkdir()
    (world / "other" / "c.webp").write_text("other")
    assert "exists already and is another image" in refused(
        "a.jsonl", *form, "--copy-images", world / "other"
    )


@pytest.mark.parametrize("form", FOLDERS)
def test_only_an_earlier_export_is_replaced_by_a_folder(world, export, refused, form):
    (world / "mine").mkdir()
    (world / "mine" / "thesis.txt").write_text("mine")
    assert "folder of other things" in refused("mine", "--format", form, "--overwrite")
    out = export("out", "--format", form)
    (out / "stale").write_text("of the first export")
    assert "exists already" in refused("out", "--format", form)
    export("out", "--format", form, "--overwrite")
    assert not (out / "stale").exists() and json.loads((out / "export.json").read_text())["samples"] == 6
    assert not [path for path in world.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("form", FOLDERS + FILES[:3])  # a list of ids reads no record
def test_a_changed_record_is_an_error_that_names_row_and_file(world, refused, form):
    source = world / "source" / "data.json"
    data = source.read_bytes()
    source.write_bytes(data.replace("« là-bas » 7".encode(), "« la bas »  7".encode()))
    assert len(source.read_bytes()) == len(data)
    line = refused("out", "--format", form)
    assert "row 7" in line and str(source) in line


@pytest.mark.parametrize("form", ["datasets", "parquet", "webdataset"])
@pytest.mark.parametrize("change", ["longer", "gone"])
def test_an_image_that_changed_is_an_error(world, refused, form, change):
    image = world / "source" / "images" / "c.webp"
    if change == "gone":
        image.unlink()
    else:
        image.write_bytes(image.read_bytes() + b"0")
    assert "c.webp" in refused("out", "--format", form)


def test_an_image_of_the_same_size_with_other_bytes_is_an_error_after_a_full_audit(world, refused):
    folder = world / "source"
    build_pool(folder / "data.json", folder / "images", world / "full", options=Options(audit="full"))
    choose(world / "full", CHOSEN, world / "chosen")
    image = folder / "images" / "c.webp"
    data = image.read_bytes()
    image.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    for form in (["webdataset"], ["swift", "--copy-images", world / "copies"]):
        line = refused("out", "--format", *form, pool="full", subset="chosen")
        assert "c.webp (row 5) is not the image" in line


def killed(world, out, form, point):
    """Run the command in a process that kills itself at `point`; returns its status."""
    command = [sys.executable, "-m", "curation.export", "subset", "--pool", "pool", "--out", out]
    environment = os.environ | {"WINNOW_KILL": f"start/{point}", "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        [*command, "--format", form, "--overwrite"],
        cwd=world,
        env=environment,
        capture_output=True,
        check=False,
    )
    return done.returncode


@pytest.mark.parametrize(("form", "out"), [("llava", "out.json"), ("webdataset", "out")])
def test_a_killed_export_leaves_no_half_and_the_next_one_no_litter(world, export, form, out):
    assert killed(world, out, form, "before rename/1") == -signal.SIGKILL
    assert not (world / out).exists()
    assert [path.name for path in world.iterdir() if path.name.startswith(f".{out}.")]
    export(out, "--format", form, "--overwrite")
    assert not [path.name for path in world.iterdir() if path.name.startswith(".")]


def test_a_failing_write_leaves_the_earlier_export(world, export, monkeypatch):
    out = export("out", "--format", "webdataset")
    before = contents(out)
    (world / "source" / "images" / "c.webp").unlink()
    arguments = [
        world / "subset",
        "--pool",
        world / "pool",
        "--out",
        out,
        "--format",
        "webdataset",
        "--overwrite",
    ]
    assert main([str(argument) for argument in arguments]) == 2
    assert contents(out) == before
    assert not [path for path in world.iterdir() if path.name.startswith(".")]


def test_hard_links_are_made_or_refused_never_copied(world, export, refused, monkeypatch):
    out = export("lf", "--format", "llamafactory", "--link-images", world / "lf" / "images")
    image = out / "images" / "deep" / "a.jpg"
    assert image.samefile(world / "source" / "images" / "deep" / "a.jpg")

    def across(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", across)
    assert "use --copy-images" in refused("b", "--format", "llamafactory", "--link-images", world / "b" / "i")


def test_copies_for_llava_keep_the_names_of_the_records(world, export):
    out = export("a.json", "--copy-images", world / "copies")
    for line in json.loads(out.read_text()):
        held = line.get("image", [])
        for name in [held] if isinstance(held, str) else held:
            own = world / "source" / "images" / name
            assert (world / "copies" / name).read_bytes() == own.read_bytes()
    export("a.json", "--copy-images", world / "copies", "--overwrite")  # equal copies stay


@pytest.mark.parametrize(
    ("form", "flag", "said"),
    [
        ("llava", "--images-root", "name the images as the source does"),
        ("webdataset", "--copy-images", "holds the images themselves"),
        ("parquet", "--images-root", "--image-paths makes it name them"),
        ("ids", "--link-images", "has no images"),
    ],
)
def test_an_option_that_a_format_cannot_follow_is_refused(refused, world, form, flag, said):
    assert said in refused("out", "--format", form, flag, world / "x")


def test_wrong_options_are_one_line(refused, world):
    assert "--image-paths is for" in refused("a", "--image-paths")
    assert "not both" in refused("a", "--copy-images", world / "x", "--link-images", world / "y")
    assert "--private needs --push" in refused("a", "--private")
    assert "invalid choice" in refused("a", "--format", "csv")
    assert "must be a size" in refused("a", "--shard-size", "lots")
    assert "ORG/NAME" in refused("a", "--push", "name")


def test_an_empty_subset_is_refused(world, refused):
    choose(world / "pool", [], world / "none")
    assert "nothing to export" in refused("a", subset="none")


def test_records_far_apart_are_read_in_rank_order(tmp_path, monkeypatch):
    """Windows, gaps and chunks smaller than a record change nothing."""
    pool = Pool.open(build_world(tmp_path) / "pool")
    rows = np.array([7, 0, 3, 1, 6])
    whole = [(r.row, r.rank, r.data) for r in records.records(pool, rows)]
    assert [json.loads(data) for _, _, data in whole] == [RECORDS[row] for row in rows]
    for chunk, read, gap in ((1, 1, 0), (500, 10_000, 0), (10_000, 300, 10_000), (700, 1, 1 << 20)):
        monkeypatch.setattr(records, "_CHUNK_BYTES", chunk)
        monkeypatch.setattr(records, "_READ_BYTES", read)
        monkeypatch.setattr(records, "_GAP_BYTES", gap)
        assert [(r.row, r.rank, r.data) for r in records.records(pool, rows)] == whole
